"""The report: one HTML page that shows what became of the documents, the models, and where everything came from."""

PAGE = "data/report.html"
"""In the dataset of the stage ``report``."""
FOLDER = "reports"
"""Where in a workspace runs without that stage leave a page."""
