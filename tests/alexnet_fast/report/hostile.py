"""Class names that try to be HTML, a script, a template, an attribute, a property that every object has."""

HOSTILE = (
    "<img src=x onerror=\"document.title='pwned'\">",
    "</script><script>document.title='pwned'</script>",
    "{{ 7 * 7 }} ${7*7} datum.x",
    "\"'><b>&amp;",
    "javascript:alert(1)",
    "constructor",
)
"""Labels of the first classes."""
