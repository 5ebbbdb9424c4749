"""What is on a page of HTML."""

from html.parser import HTMLParser


class Page(HTMLParser):
    """A page's tags, words and pictures."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.attributes, self.words, self.open, self.figures = [], [], "", [], []
        self.source = path.read_text("utf-8")
        self.feed(self.source)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        if tag == "svg":
            self.figures.append(dict(attributes)["aria-label"])
        if tag not in ("meta", "img", "br", "link", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.words += data + " "
