"""The app: talk with a model about a picture in a web page, and see beside each answer who read what.

:mod:`moiety.app.session` keeps what one person said and how the last answer was routed, :mod:`moiety.app.views` draws
it for one layer, and both know nothing of the web. :mod:`moiety.app.page` puts them on a page with gradio, which comes
with the extra ``app``; :mod:`moiety.app.server` starts it.
"""
