"""People's votes on answers: which of two does a person prefer?

log         every vote on record: append-only, on the disk before it is confirmed
annotators  who may vote: names, and digests of the tokens in their links
compare     who is shown what: pairs, sides, repeats; answers generated ahead
board       what the votes say of the models, and of the annotators
stage       the votes as a dataset of the store, from which ``preferences`` makes pairs
"""
