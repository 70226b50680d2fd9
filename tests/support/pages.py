"""Reads the pages that the service writes."""

from html.parser import HTMLParser

VOID = {"meta", "br", "img", "link", "input", "wbr"}


class Page(HTMLParser):
    """Collects elements, attributes and text, and checks that every element is closed."""

    def __init__(self, content):
        super().__init__(convert_charrefs=True)
        self.elements, self.attributes, self.text, self._open = [], [], [], []
        self.feed(content.decode())
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def loads_nothing(page):
    """Check that a page is whole by itself: no scripts, and nothing that is fetched from anywhere."""
    assert not {"script", "link", "img", "iframe", "object", "base"} & set(page.elements)
    for _, name, value in page.attributes:
        assert name not in {"src", "href", "srcset", "action"}
        assert not name.startswith("on")
        assert "url(" not in value
