"""What is served over HTTP: the OpenAI-compatible API, the page's own API, and the page."""
