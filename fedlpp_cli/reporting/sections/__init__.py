"""One part of the page a module: from what is known to paragraphs, tables and figures."""
