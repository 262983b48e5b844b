"""Line-wise corrections of RefinedWeb (Penedo et al. 2023, appendix G.2), as one measure.

The paper removes lines that are navigation rather than text, and drops a page when more than 5 % of its words went with
them. The measure is that share.
"""

import numpy as np

from pipeline.quality.text import Flags, Floats, TextView, ratio

MOSTLY_UPPER = 0.5
SHORT_LINE_WORDS = 10
COUNTED = ("like", "likes", "share", "shares", "comment", "comments", "view", "views", "retweet", "retweets", "reply",
           "replies", "vote", "votes", "follower", "followers", "download", "downloads", "repost", "reposts")  # fmt: skip
CALLS = ("sign in", "sign-in", "sign up", "log in", "read more", "items in cart", "add to cart", "see all comments")


def refinedweb(text: TextView) -> dict[str, Floats]:
    """The measure, by attribute name."""
    lost = np.where(navigation_lines(text), text.line_words, 0)
    return {"navigation_line_words": ratio(text.sum_lines(lost), text.words)}


def navigation_lines(text: TextView) -> Flags:
    """Lines that are capitals, numbers, a counter, one word, or a short call to click."""
    words = text.line_words
    shouting = text.line_uppers > MOSTLY_UPPER * np.maximum(text.line_letters, 1)
    numeric = (text.line_digits > 0) & (text.line_letters == 0)
    counter = (words == 2) & (text.line_digits > 0) & _has_word(text, COUNTED)
    calling = np.zeros(len(words), np.bool_)
    for call in CALLS:
        calling |= text.lines_with_phrase(call)
    found: Flags = shouting | numeric | counter | (words == 1) | (calling & (words <= SHORT_LINE_WORDS))
    return found


def _has_word(text: TextView, vocabulary: tuple[str, ...]) -> Flags:
    found = np.zeros(len(text.line_hash), np.bool_)
    found[text.word_line[text.words_in(vocabulary)]] = True
    return found
