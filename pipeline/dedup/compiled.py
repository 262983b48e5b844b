"""The stage as worker processes import it: together with all kernels, so that a forked worker has them already."""

from pipeline.dedup import STAGE, copies, gather, minhash, shingles, similarity, stars

__all__ = ["STAGE", "copies", "gather", "minhash", "shingles", "similarity", "stars"]
