"""Class names that try to be HTML, a script, a template, an attribute."""

HOSTILE = (
    "<img src=x onerror=\"document.title='pwned'\">",
    "</script><script>document.title='pwned'</script>",
    "{{ 7 * 7 }} ${7*7} datum.x",
    "\"'><b>&amp;",
    "javascript:alert(1)",
)
"""Labels of the first classes."""
