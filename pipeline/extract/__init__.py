"""From an HTTP response to readable text: decoding, cheap tests, extraction with limits and a fallback."""
