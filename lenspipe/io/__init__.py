"""Files in and out. Science rooms never import this one."""
