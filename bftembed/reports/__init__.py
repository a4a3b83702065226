"""Tables, figures and the one self-contained HTML file."""
