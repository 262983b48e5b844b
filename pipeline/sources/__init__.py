"""Where documents come from: crawl archives, Wikipedia dumps, source code, tables."""
