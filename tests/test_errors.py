"""Messages name settings; each door spells them in its own words."""

import pytest

from presurge.errors import ConfigError, DataError, spelled, within


def shout(setting: str, value: str | None) -> str:
    return setting.upper() if value is None else f"{setting.upper()} {value}"


def test_a_message_reads_where_setting_what_hint() -> None:
    error = ConfigError(
        "must be at least 1", setting="horizon", where="run.yaml", hint="Or train with `horizon=3`."
    )
    assert str(error) == "run.yaml: horizon: must be at least 1\n  Or train with horizon=3."
    assert error.render(shout) == "run.yaml: HORIZON: must be at least 1\n  Or train with HORIZON 3."


def test_a_message_without_a_place_is_the_sentence_alone() -> None:
    assert str(DataError("there are no rows")) == "there are no rows"


def test_a_place_is_added_in_front_of_a_narrower_one() -> None:
    with pytest.raises(DataError, match=r"^load\.csv: it is empty$"), within("load.csv"):
        raise DataError("it is empty")
    with pytest.raises(DataError, match=r"^load\.csv, row 3: it is empty$"), within("load.csv"):
        raise DataError("it is empty", where="row 3")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a shorter `context` or `horizon`", "a shorter CONTEXT or HORIZON"),
        ("Give it: `step=60s`.", "Give it: STEP 60s."),
        ("Run `presurge prepare` first.", "Run `presurge prepare` first."),
        ("`time=COL` `value=A,B`", "TIME COL VALUE A,B"),
        ("no settings here", "no settings here"),
    ],
)
def test_settings_in_backticks_are_spelled_and_commands_stay(text: str, expected: str) -> None:
    assert spelled(text, shout) == expected
