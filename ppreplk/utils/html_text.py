"""Text in HTML pages."""

from html import escape


def escaped(text: str) -> str:
    """Text for a page; bytes of file names that are no text are shown with backslashes.

    >>> escaped("<b>.png")
    '&lt;b&gt;.png'
    """
    return escape(text.encode("utf-8", "backslashreplace").decode("utf-8"))
