"""The dataset store: immutable, content-identified datasets on any fsspec file system."""
