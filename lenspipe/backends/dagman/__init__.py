"""Native HTCondor: the units of the far stages as a DAGMan workflow, the stages before and after them here.

For pools where no port may be opened towards workers and no process of one's own may stay: everything far travels by
HTCondor's file transfer, and DAGMan is the driver in the meantime.
"""
