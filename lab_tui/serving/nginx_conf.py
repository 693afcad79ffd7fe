"""What nginx is told: a pure function of what the front should be.

The reasons for each line are in the README, The front and Security.
"""

from __future__ import annotations

from lab_tui.access import is_loopback
from lab_tui.model import Data
from lab_tui.serving.parts import Nginx
from lab_tui.serving.traffic import connections_place, log_lines

GENERATION_PATH = "/lab-tui/generation"
PRIVATE_PATHS = "slots|props|metrics|lora-adapters"  # of llama-server; they show what others ask
KEYS_FILE = "keys.conf"  # beside the configuration, for nobody else to read


class FrontSpec(Data, frozen=True, kw_only=True):
    """What the front should be."""

    host: str
    port: int
    backends: tuple[str, ...]  # addresses of the ready instances, "127.0.0.1:9000"
    max_streams: int
    balancing: str = "round_robin"
    max_body_mb: int = 64
    keys_file: str = ""  # what the configuration includes to know the API keys; "": it asks for none
    keys: tuple[str, ...] = ()  # what is written there; (): what was there stays

    @property
    def url(self) -> str:
        """The base URL as seen from this machine."""
        return f"http://{reachable(self.host)}:{self.port}"

    @property
    def listens(self) -> str:
        """Address and port, as nginx takes them."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def reachable(host: str) -> str:
    """The address under which this machine reaches a listener on ``host``."""
    if host == "0.0.0.0":
        return "127.0.0.1"
    if host == "::":
        return "[::1]"
    return f"[{host}]" if ":" in host else host


def files_needed(max_streams: int) -> int:
    """Open files of nginx: two connections a stream (client and instance), some of its own, and spare ones.

    With less than a sixteenth of its connections free, nginx closes kept-alive ones of clients to have
    more (ngx_drain_connections), and a request on its way there is reset.
    """
    return (2 * max_streams + 128) * 9 // 8


def config_text(spec: FrontSpec, nginx: Nginx, generation: int | None) -> str:
    """The nginx configuration of ``spec``.

    ``generation`` is what the front answers to whoever asks which configuration is in effect; None:
    it is not asked, and nobody counts its requests either.
    """
    files = files_needed(spec.max_streams)
    listen = spec.listens
    if spec.host == "::":
        listen += " ipv6only=off"  # IPv4 too
    return f"""pid nginx.pid;
worker_processes 1;
worker_rlimit_nofile {files};
worker_shutdown_timeout 3600s;
events {{ worker_connections {files}; }}
http {{
{log_lines() if generation is not None else "  access_log off;"}
  server_tokens off;
  client_body_temp_path tmp/b; proxy_temp_path tmp/p; fastcgi_temp_path tmp/f;
  uwsgi_temp_path tmp/u; scgi_temp_path tmp/s;
{_upstream(spec, nginx)}
{STRANGERS.format(keys=spec.keys_file) if spec.keys_file else ""}  server {{
    listen {listen} backlog=4096;
    client_max_body_size {spec.max_body_mb}m; client_body_buffer_size {spec.max_body_mb}m;
    add_header X-Upstream $upstream_addr always;
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_set_header Host $http_host;
    proxy_buffering off;
    proxy_read_timeout 3600s;
    proxy_send_timeout 3600s;
    proxy_next_upstream error timeout;
{_places(spec, nginx, generation)}  }}
}}
"""


def _upstream(spec: FrontSpec, nginx: Nginx) -> str:
    if not spec.backends:
        return "  # no instance is ready"
    lines = [f"    server {address} max_fails=0;" for address in spec.backends]
    if spec.balancing == "least_conn":
        lines.insert(0, "    least_conn;")
    if nginx.version >= (1, 29, 7):  # keepalive became the default there and is a syntax error before
        lines.append("    keepalive 0;")
    return "\n".join(["  upstream llm {", "    zone llm 64k;", *lines, "  }"])


# A key is given in one of two headers, as llama-server takes it. Who gives none that is known is a
# stranger: his address is counted, that of others is not (an empty value is no key of a zone).
STRANGERS = """\
  map $http_authorization $lab_given {{ "" "Bearer $http_x_api_key"; default $http_authorization; }}
  map $lab_given $lab_known {{ default 0; include {keys}; }}
  map $lab_known $lab_stranger {{ 1 ""; default $binary_remote_addr; }}
  limit_req_zone $lab_stranger zone=strangers:1m rate=1r/s;
"""
# Refused before a byte of the body is read. `return` would come before limit_req, try_files comes after.
REFUSAL = """\
    location = /lab-tui/stranger {
      internal; root /dev/null;
      limit_req zone=strangers burst=10 nodelay; limit_req_status 429; limit_req_log_level info;
      try_files /lab-tui/stranger =401;
      error_page 401 @wrong_key; error_page 429 @too_often;
    }
"""
# Without a key, as llama-server has it, but short: whether it is up, and what browsers ask beforehand.
PUBLIC = """\
    location ~ ^/(v1/)?health$ {{ client_max_body_size 1k; {serve} }}
"""


def _places(spec: FrontSpec, nginx: Nginx, generation: int | None) -> str:
    """Which requests get what."""
    serve = "proxy_pass http://llm;" if spec.backends else _error(503, "no instance is ready", "unavailable")
    places, guard = "", ""
    if generation is not None:
        said = f'access_log off; default_type text/plain; return 200 "{generation}";'
        places += f"    location = {GENERATION_PATH} {{ {said} }}\n" + connections_place(spec.host, nginx)
    if not is_loopback(spec.host):
        places += f"    location ~ (^|/)({PRIVATE_PATHS}) {{ return 404; }}\n"
    if spec.keys_file:
        wrong = _error(401, "Invalid API Key", "authentication")
        often = _error(429, "too many requests without a valid API key", "rate_limit")
        places += REFUSAL + PUBLIC.format(serve=serve)
        places += f"    location @wrong_key {{ {wrong} }}\n    location @too_often {{ {often} }}\n"
        guard = (
            "      if ($request_method = OPTIONS) { rewrite ^ /health last; }\n"
            "      if ($lab_known = 0) { rewrite ^ /lab-tui/stranger last; }\n"
        )
    return f"{places}    location / {{\n{guard}      {serve}\n    }}\n"


def _error(code: int, message: str, kind: str) -> str:
    """An answer in the words of llama-server."""
    body = f'{{"error":{{"code":{code},"message":"{message}","type":"{kind}_error"}}}}'
    return f"default_type application/json; return {code} '{body}';"


def keys_text(keys: tuple[str, ...]) -> str:
    """What the configuration includes to know the keys: case matters, and nothing in a key means anything."""
    return "".join(f'"~^Bearer \\Q{key}\\E$" 1;\n' for key in keys)


def keys_command(file: str, to: str) -> str:
    """Shell that makes the same from a file of keys; both names as a shell reads them."""
    key = r"[A-Za-z0-9._~+/=-]\{16,\}"
    return f"""umask 077 && sed -n 's|^{key}$|"~^Bearer \\\\Q&\\\\E$" 1;|p' {file} >{to}"""
