"""How the benchmark command answers bad input."""

import pytest
from helpers import assert_one_line_and_exit_2, run_tool


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["data", "-c", "none.yaml", "--output", "t.txt"], "written to a .md or .csv file, got t.txt"),
        (["conv", "--output", "missing/t.md"], "the folder of missing/t.md does not exist"),
        (["conv", "--kernel", "5", "--figure", "f.bmp"], "written to a .png or .svg file, got f.bmp"),
        (["conv", "--figure", "f.png"], "give those with --kernel"),
        (["conv", "--kernel", "4"], "odd K"),
        (["model", "--name", "RepLKNet31"], "unknown model 'RepLKNet31'"),
        (["train", "--name", "RepLKNet31"], "unknown model 'RepLKNet31'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(tmp_path, arguments, message):
    assert_one_line_and_exit_2(run_tool("benchmark", *arguments, cwd=tmp_path), message)
