"""Starting, watching and ending process groups (training, alignment) on this machine or a cluster."""
