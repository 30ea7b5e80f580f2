"""The app: talk with a model about a picture in a web page, and see beside each answer who read what.

:mod:`moiety.app.session` keeps the conversation of one person and the routing of the last answer.
:mod:`moiety.app.views` draws that routing for one layer. Neither of them imports gradio. :mod:`moiety.app.page` puts
them on a page with gradio, which comes with the extra ``app``, and :mod:`moiety.app.server` starts it.
"""
