"""What `serve` prints once it is ready: where it listens, and lines to paste."""

from __future__ import annotations

from collections.abc import Sequence

_TEMPLATE = """
WorldRouter is ready.

  HTTP    {http}/v1    (OpenAI-compatible)
  gRPC    {grpc}
  Metrics {metrics}
  Models  {models}
  {key_line}

curl:

  curl {http}/v1/chat/completions \\
    -H "Authorization: Bearer {key}" \\
    -H "Content-Type: application/json" \\
    -d '{{"model": "{model}", "messages": [{{"role": "user", "content": "Say hello."}}]}}'

Python (pip install openai):

  import os
  from openai import OpenAI

  client = OpenAI(base_url="{http}/v1", api_key={python_key})
  stream = client.chat.completions.create(
      model="{model}", messages=[{{"role": "user", "content": "Say hello."}}], stream=True
  )
  for chunk in stream:
      print(chunk.choices[0].delta.content or "", end="")

"""


def welcome(
    http: str, grpc: Sequence[str], admin: Sequence[str], models: Sequence[str], secret: str | None, example: str | None
) -> str:
    """The text, with an address of each worker; `secret` is the first key, None when it was shown earlier.

    `example` is the model of the lines to paste, None for the first.
    """
    shown = list(models[:8]) + ([f"and {len(models) - 8} more"] if len(models) > 8 else [])
    if secret is not None:
        key_line = f"API key {secret}   (shown this once; more with: worldrouter keys create NAME)"
    else:
        key_line = "API key as shown at the first start; another with: worldrouter keys create NAME"
    return _TEMPLATE.format(
        http=http,
        grpc=", ".join(grpc),
        metrics=", ".join(f"{url}/metrics" for url in admin),
        models=", ".join(shown) or "none: configure some in worldrouter.toml",
        model=example or (models[0] if models else "MODEL"),
        key=secret or "$WORLDROUTER_API_KEY",
        python_key=f'"{secret}"' if secret else 'os.environ["WORLDROUTER_API_KEY"]',
        key_line=key_line,
    )
