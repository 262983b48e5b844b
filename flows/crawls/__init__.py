"""Crawls as a series: watched for, started once, each built on the ones before it."""
