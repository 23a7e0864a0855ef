"""A number for each kind of thing that is made, raised by hand when its numbers change.

It stands in the key of what is made, so that what an older version made is made again, and nothing
is because a variable has another name. `tests/test_versions.py` fails where numbers change.
"""

VERSIONS = {
    "simulated": 1,  # a simulated subject's files
    "subject": 1,  # responses, places and areas read from files
    "network": 1,  # the tokens of a network of the same name and weights
    "tokens": 3,  # of the same network and picture, or their form on disk
    "tuned": 1,  # a network tuned to labelled pictures
    "fit": 1,  # of the same subject, tokens, model and recipe
    "ridge": 1,
    "finding": 1,  # what a page records of the same fits
}
