#!/usr/bin/env bash
# openai 3.57.0 (Python 3.11): the client's helpers raise on an answer that was cut by its length, also of plain text.
#
# chat.completions.create gives an answer that ended with finish_reason "length" like any other. The helpers parse and
# stream of the same client, asked the same without a response_format, so that there is nothing to parse, raise
# LengthFinishReasonError instead, stream when the whole answer is asked for after its last piece. An evaluation
# harness that goes over to the helpers loses every answer that reaches max_tokens, which for benchmarks with
# short answers can be all of them. The text is not lost: it hangs on the error as .completion.
#
# Output seen:
#   create: 'a red circ' length
#   parse: LengthFinishReasonError, 'a red circ' on the error
#   stream: LengthFinishReasonError after the pieces 'a red circ'
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "openai==3.57.0"
cat > "$folder/cut.py" <<'PYTHON'
import http.server
import json
import sys
import threading

import openai

ABOUT = {"id": "1", "created": 0, "model": "m"}
TEXT = "a red circ"


class Cut(http.server.BaseHTTPRequestHandler):
    """Answers every question with a text that was cut."""

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        streamed = asked.get("stream")
        kind = "text/event-stream" if streamed else "application/json"
        if streamed:
            deltas = [({"role": "assistant", "content": TEXT}, None), ({}, "length")]
            pieces = [
                {**ABOUT, "object": "chat.completion.chunk",
                 "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}
                for delta, reason in deltas
            ]
            body = "".join(f"data: {json.dumps(piece)}\n\n" for piece in pieces) + "data: [DONE]\n\n"
        else:
            message = {"role": "assistant", "content": TEXT}
            choice = {"index": 0, "message": message, "finish_reason": "length"}
            body = json.dumps({**ABOUT, "object": "chat.completion", "choices": [choice]})
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *about):
        """Say nothing."""


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Cut)
threading.Thread(target=server.serve_forever, daemon=True).start()
client = openai.OpenAI(base_url=f"http://127.0.0.1:{server.server_port}/v1", api_key="none", max_retries=0)
asked = {"model": "m", "messages": [{"role": "user", "content": "What is it?"}], "max_tokens": 3}

choice = client.chat.completions.create(**asked).choices[0]
print("create:", repr(choice.message.content), choice.finish_reason)
found = [choice.message.content == TEXT]
try:
    client.chat.completions.parse(**asked)
    found.append(False)
except openai.LengthFinishReasonError as error:
    print("parse: LengthFinishReasonError,", repr(error.completion.choices[0].message.content), "on the error")
    found.append(error.completion.choices[0].message.content == TEXT)
pieces = []
try:
    with client.chat.completions.stream(**asked) as stream:
        pieces = [event.delta for event in stream if event.type == "content.delta"]
        stream.get_final_completion()
    found.append(False)
except openai.LengthFinishReasonError:
    print("stream: LengthFinishReasonError after the pieces", repr("".join(pieces)))
    found.append(True)
sys.exit(0 if all(found) else 1)
PYTHON
"$folder/venv/bin/python" "$folder/cut.py"
