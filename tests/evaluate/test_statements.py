"""What a text states: letters, yes or no and numbers inside everything that models put around them."""

import pytest

from moiety.evaluate.statements import stated_answer, stated_letter, stated_word
from moiety.evaluate.wrappers import answer_parts

ANIMALS = ["a fox", "a lion", "a whale"]
RIGHT = [
    # bare, in brackets, with emphasis, with its words
    *(
        "B",
        "b",
        "(B).",
        "(b)",
        "[B]",
        "B.",
        "B)",
        "**B**",
        "**B. a lion**",
        "'B'",
        '"B"',
        "`B`",
        "> B",
        "- B",
        "Ｂ",
        "（Ｂ）",
    ),
    *("B: cat", "B - a lion", "B a lion", "B, a lion", "a lion", "A lion.", "B because it roars", "B\nbecause"),
    # stated
    *(
        "The answer is: B",
        "The answer is B",
        "the answer is b",
        "Answer: B) cat",
        "Answer - B",
        "Answer=B",
        "ANSWER: B",
        "final_answer: B",
        "FINAL_ANSWER = B",
    ),
    *("The correct answer is (B) a lion", "The answer is a lion.", "The best answer would be B", "Correct choice: B"),
    *("Option B", "option (b)", "I choose B", "I would go with option B.", "The letter is B", "It is B."),
    *(
        "The answer to the question is B.",
        "The answer I think is B",
        '{"answer": "B"}',
        '```json\n{"answer": "B"}\n```',
    ),
    # Chinese
    *("答案：B", "答案是B选项", "正确答案为（B）", "故选Ｂ。", "选B", "答案：B。"),
    # boxes and formulas
    *(
        r"\boxed{B}",
        r"$\boxed{\text{B}}$",
        r"\boxed{\mathbf{\text{(B)}}}",
        r"\boxed{\text{B. a lion}}",
        r"\(\boxed{B}\)",
    ),
    *(r"\[\boxed{B}\]", "$B$", r"\boxed{B", r"\boxed{a lion}", r"First \boxed{A}, no: \boxed{B}.", "\boxed{B}"),
    # thinking and tags
    *("<think>A? maybe A.</think>\n<answer>B</answer>", "<think>The answer is A.</think>B", "<think></think>B"),
    *("<think>Well. <answer>B</answer>", "<think>so the answer is B", "It may be A.</think>\n\nB", "<answer>B"),
    *("<answer> (B) </answer>", "<answer>A</answer><answer>B</answer>", "<ANSWER>\\boxed{B}</ANSWER>"),
    *("<|begin_of_box|>B<|end_of_box|>", "◁think▷A◁/think▷ B", "<answer>The answer is B.</answer>"),
    # the last one
    *(
        "A. No wait, the answer is B.",
        "The answer is A. Actually, B.",
        "The options differ.\nB",
        "### Final Answer\n\nB",
    ),
    *(
        "Option A is wrong. Option B is right.",
        "Option B is correct, option A is not.",
        "A) is tempting, but (B) is correct",
    ),
    *("A. a fox\nB. a lion\nC. a whale\nThe answer is B.", "The answer is not A but B.", "The answer is B, A is wrong"),
]
NONE = [
    *(
        "A or B",
        "The answer is A or B",
        "A, B",
        "Both (A) and (B)",
        "D",
        "The answer is D",
        "",
        "DNA",
        "<answer></answer>",
    ),
    *("A. a fox\nB. a lion\nC. a whale", "<think>B. a lion could be", "<think>A or B?</think>", "The answer is not B."),
]


@pytest.mark.parametrize("text", RIGHT)
def test_a_stated_letter_is_read(text: str) -> None:
    assert stated_letter(text, ANIMALS) == "B"


@pytest.mark.parametrize("text", NONE)
def test_nothing_is_guessed(text: str) -> None:
    assert stated_letter(text, ANIMALS) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        *((text, "yes") for text in ("Yes", "**Yes**", "Ｙｅｓ", "There is one.\nYes", "Answer: Yes, there is.")),
        *((text, "no") for text in ("The answer is: No", "<think>yes</think>No", "<answer>No</answer>", '"No"')),
        *(
            (text, "no")
            for text in (r"\boxed{\text{No}}", "Yes. But no cat: the answer is no.", "<think>the answer is no")
        ),
        *((text, None) for text in ("Yes or no", "yes/no", "know", "", "<think>yes, maybe", "It is no dog")),
        *((text, "yes") for text in ("It's yes", "(yes)", "Yes, it is", "It’s a yes.", "I would say yes, since")),
        *((text, "no") for text in ("it is no", "That is a no!", "(No)", "No, it isn't", "So it's no.")),
        *((text, None) for text in ("It is yes, or no", "It's yes and no", "It is no more", "I say no dog is here")),
    ],
)
def test_a_stated_yes_or_no_is_read(text: str, said: str | None) -> None:
    assert stated_word(text) == said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        *(("7", "7"), ("The answer is 7, since 3 + 4 = 7.", "7"), (r"\boxed{7.5}", "7.5"), ("#### 7", "7")),
        *(("<think>8</think><answer>7</answer>", "7"), ("The answer is: $7$", "7"), (r"$\boxed{\frac{1}{2}}$", "1/2")),
        *(("Answer: [1, 2, 3], in this order", "[1, 2, 3]"), ("7 of 8", "7 of 8"), ("snake_case", "snake_case")),
    ],
)
def test_the_piece_with_the_answer(text: str, said: str) -> None:
    assert stated_answer(text) == said


def test_thinking_that_nothing_follows_is_kept_for_what_it_states() -> None:
    assert [part.outright for part in answer_parts("<think>B")] == [True]
    assert [part.outright for part in answer_parts("<think>B</think>")] == [True]
    assert answer_parts("<think>B</think>A")[0].text == "A"
