"""Tables of scores and their renderers: terminal, HTML page, figure, CSV, LaTeX and Markdown."""
