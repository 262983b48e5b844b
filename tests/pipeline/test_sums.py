"""What is asked is told nowhere, and every answer is right."""

import json

from pipeline.sums import SumsConfig, divided, problems, question, talks, texts


def test_sums_that_are_asked_stand_in_no_text_and_no_conversation() -> None:
    config = SumsConfig(conversations=50, copies=2)
    told, asked = divided(config)
    assert len(told) + len(asked) == 8100 and not set(told) & set(asked)
    lines = [line for text in texts(told, config) for line in text["text"].split("\n")]
    assert len(lines) == 2 * len(told) and all(eval(line.replace("=", "==")) for line in lines)  # noqa: S307
    assert {line.partition(" =")[0] for line in lines} == {question(pair).partition(" =")[0] for pair in told}
    for talk in talks(told, config):
        asks, answers = (message["content"] for message in talk["messages"])
        left, right = asks.removesuffix(" = ?").split(" + ")
        assert int(left) + int(right) == int(answers) and (int(left), int(right)) in set(told)
    found = list(problems(asked))
    assert len({row["id"] for row in found}) == len(asked) and json.loads(found[0]["answer"]) == sum(asked[0])
    assert divided(SumsConfig(seed=1)) != divided(config)


def test_a_careless_teacher_is_wrong_as_often_as_said() -> None:
    config = SumsConfig(conversations=2000, mistakes=0.9)
    told, _ = divided(config)
    errors = []
    for (left, right), talk in zip(told, talks(told, config), strict=False):
        errors.append(int(talk["messages"][1]["content"]) - left - right)
    assert set(errors) == {0, 1, 10} and abs(errors.count(0) / len(errors) - 0.1) < 0.03
