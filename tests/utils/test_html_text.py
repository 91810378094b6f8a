from ppreplk.utils.html_text import escaped


def test_bytes_that_are_no_text_are_shown():
    assert escaped("\udce9<") == "\\udce9&lt;"
