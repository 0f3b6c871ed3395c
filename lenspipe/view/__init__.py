"""What a person looks at: figures, text and HTML out of arrays and plain dictionaries."""
