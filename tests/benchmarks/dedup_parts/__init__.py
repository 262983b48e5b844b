"""The parts of the dedup benchmark: corpora with planted truth, the systems that are compared, and what is measured."""
