"""YAML files: duplicate keys, anchors, encodings, values that other programs write differently."""

import pytest
from helpers import ROOT, refused

from ppreplk.config import load_config, read_yaml
from ppreplk.config.yaml_text import parse_yaml

DIGITS = (ROOT / "configs" / "digits.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "text, place, lines",
    [
        ("a: 1\nb: 2\na: 3", "a", (1, 3)),
        ("a: 1\n'a': 3", "a", (1, 2)),
        ("a:\n  b: 1\n\n  b: 1", "a.b", (2, 4)),
        ("a:\n- b: {c: 1}\n- b:\n    c: 2\n    d: 3\n    c: 2", "a[1].b.c", (4, 6)),
        ("a: {b: 1, c: 2, b: 3}", "a.b", (1, 1)),
        ("x: &x {y: 1}\na:\n  <<: *x\n  <<: *x", "a.<<", (3, 4)),
        ("a: &a\n  b: 1\n  b: 2\nc: *a", "a.b", (2, 3)),
        ("1: a\n1: b", "1", (1, 2)),
    ],
)
def test_a_key_that_is_there_twice_is_refused_with_both_lines(tmp_path, text, place, lines):
    (tmp_path / "c.yaml").write_text(text)
    twice = f"c.yaml: {place} is there twice, in line {lines[0]} and in line {lines[1]}; keep one"
    with refused("config.duplicate-key", twice):
        read_yaml(tmp_path / "c.yaml")


def test_a_merge_key_may_be_overruled():
    assert parse_yaml("a: &a {b: 1, c: 2}\nd:\n  <<: *a\n  b: 3", "")["d"] == {"b": 3, "c": 2}


def test_sections_that_share_an_anchor_change_apart(tmp_path):
    text = DIGITS.replace("  Eval:\n    dataset:", "  Eval:\n    dataset: &eval", 1)
    train = text.index("    sampler:\n")
    text = text[:train] + "    sampler: &sampler\n" + text[train + len("    sampler:\n") :]
    second = text.index("    sampler:\n")
    end = text.index("    loader:\n", second)
    (tmp_path / "c.yaml").write_text(text[:second] + "    sampler: *sampler\n" + text[end:])
    config = load_config(tmp_path / "c.yaml", ["DataLoader.Eval.sampler.batch_size=7"])
    assert (config.DataLoader.Train.sampler.batch_size, config.DataLoader.Eval.sampler.batch_size) == (32, 7)


def test_what_an_anchor_names_is_copied_at_every_depth():
    read = parse_yaml("a: &a [{b: &b {c: [1]}}, *b]\nd: *a\ne: {f: *b}\ng: {<<: *b}", "")
    read["a"][0]["b"]["c"].append(2)
    assert read["a"][1] == read["e"]["f"] == read["g"] == {"c": [1]} and read["d"] == [{"b": {"c": [1]}}, {"c": [1]}]


@pytest.mark.parametrize("text", ["a: &a [*a]", "a: &a {b: *a}", "a: &a {b: {<<: *a}}"])
def test_an_anchor_that_contains_itself_is_refused(text):
    with refused("config.not-yaml", "c.yaml, line 1: ", "the anchor contains itself"):
        parse_yaml(text, "c.yaml")


def test_aliases_of_aliases_do_not_fill_the_memory():
    levels = ["l0: &l0 [x, x, x, x, x, x, x, x, x, x]"]
    levels += [f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 10)}]" for i in range(1, 10)]
    with refused("config.not-yaml", "aliases"):
        parse_yaml("\n".join(levels), "c.yaml")


@pytest.mark.parametrize(
    "text, value",
    [
        *[("010", 10), ("-010", -10), ("0x1F", 31), ("0o17", 15), ("0b11", 3), ("1_000", 1000), ("08", 8)],
        *[("1:30", "1:30"), ("1:30.5", "1:30.5"), ("2024-01-01", "2024-01-01"), ("2024-13-45", "2024-13-45")],
        *[("4e-3", "4e-3"), ("1.5", 1.5), (".5", 0.5), ("-.inf", float("-inf")), ("1.0e-3", 0.001)],
        *[("on", True), ("No", False), ("n", "n"), ("None", None), ("~", None), ("'None'", "None"), ("none", "none")],
    ],
)
def test_unquoted_values(text, value):
    read = parse_yaml(f"a: {text}", "")["a"]
    assert read == value and type(read) is type(value)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "gbk", "big5", "latin-1"])
def test_other_encodings_say_save_as_utf_8(tmp_path, encoding):
    comment = "Größe" if encoding == "latin-1" else "训练"
    comment = "訓練" if encoding == "big5" else comment
    (tmp_path / "c.yaml").write_bytes(DIGITS.replace("  epochs: 30", f"  epochs: 30  # {comment}").encode(encoding))
    place = (
        "c.yaml: " if "16" in encoding else f"c.yaml, line {DIGITS[: DIGITS.index('  epochs')].count(chr(10)) + 1}: "
    )
    with refused("config.not-utf-8", place, "UTF-8"):
        load_config(tmp_path / "c.yaml")


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_a_byte_order_mark_and_other_ends_of_lines_are_read(tmp_path, newline):
    (tmp_path / "c.yaml").write_bytes(b"\xef\xbb\xbf" + DIGITS.replace("\n", newline).encode())
    assert load_config(tmp_path / "c.yaml").Global.epochs == 30


@pytest.mark.parametrize(
    "text, line, message",
    [
        ("a: 1\nb: \a", 2, r"'\x07' cannot be in YAML"),
        ("a: 1\n\tb: 2", 2, r"'\t'"),
        ("a: !!python/object/apply:os.getcwd []", 1, "could not determine a constructor"),
        ("a: !!timestamp x", 1, "could not determine a constructor"),
        ("a: !!binary eA==", 1, "could not determine a constructor"),
        ("a: 1\n---\nb: 2", 2, "another document"),
        ("a: *b", 1, "undefined alias"),
        ("a: 1\n? [b]\n: 2", 2, "unhashable"),
    ],
)
def test_what_is_no_yaml_is_refused_with_its_line(tmp_path, text, line, message):
    (tmp_path / "c.yaml").write_text(text)
    with refused("config.not-yaml", f"c.yaml, line {line}: ", message):
        read_yaml(tmp_path / "c.yaml")


@pytest.mark.parametrize("text", ["[" * 5000, "a: !!bool x", "a: !!int ''", "a: !!float ''", "a: " + "9" * 5000])
def test_what_makes_pyyaml_raise_other_errors_is_one_line_too(tmp_path, text):
    (tmp_path / "c.yaml").write_text(text)
    with refused("config.not-yaml", "c.yaml"):
        read_yaml(tmp_path / "c.yaml")


def test_numbers_and_words_for_text_are_refused_with_the_remedy(tmp_path):
    for value in ("20240101", "on", "3.10"):
        (tmp_path / "c.yaml").write_text(DIGITS.replace("output_dir: ./output/digits", f"output_dir: {value}"))
        with refused("config.wrong-type", "Global.output_dir: expected a path, got ", "in quotes it is text"):
            load_config(tmp_path / "c.yaml")
