"""Rooms whose packages are an extra that is not installed: their modules cannot be imported, their doctests not run."""

from importlib.util import find_spec

_ROOMS = {
    "serve": (("fastapi", "uvicorn", "openai"), ("answering.py", "app.py", "server.py")),
    "lmms": (("lmms_eval",), ("model.py",)),
    "vllm": (("vllm",), ("layer.py", "models.py")),
}
collect_ignore = [
    f"src/moiety/{room}/{file}"
    for room, (packages, files) in _ROOMS.items()
    if not all(map(find_spec, packages))
    for file in files
]
