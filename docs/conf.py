"""How Sphinx builds the documentation."""

import os

# Signatures with their types are in the sources only.
os.environ["PURE_FLASK_WEBSOCKETS"] = "1"

import flask_websockets

project = "Flask-WebSockets"
copyright = "The Flask-WebSockets maintainers"
version = release = flask_websockets.__version__

extensions = ["sphinx.ext.autodoc", "sphinx_copybutton", "sphinx_design"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"{project} {release}"
html_static_path = ["_static"]
html_css_files = ["frame.css"]
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0f766e", "color-brand-content": "#0f766e"},
    "dark_css_variables": {"color-brand-primary": "#2dd4bf", "color-brand-content": "#2dd4bf"},
}
copybutton_prompt_text = "$ "
copybutton_only_copy_prompt_lines = True

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True

# Every reference must lead somewhere, but for the classes that others document.
nitpicky = True
nitpick_ignore_regex = [
    ("py:.*", r"(flask|werkzeug|_typeshed|re|types|typing|collections|contextvars)\..*"),
    ("py:.*", r"Flask|Blueprint|WSGIApplication|t\.Any"),
    ("py:.*", r"(flask_websockets\..*\.|~)?[FPR]"),  # type variables
]
