"""Expressions of libnftables' JSON in the words of nft(8), for people to read."""

from __future__ import annotations

from typing import Any


def rule_text(body: list[Any], comment: str = "") -> str:
    """A rule as `nft list ruleset` would show it."""
    words = [_safe(statement) for statement in body] if isinstance(body, list) else [str(body)]
    if comment:
        words.append(f'comment "{comment}"')
    return " ".join(word for word in words if word)


def _safe(statement: Any) -> str:
    """A statement in nft's words; one of a form that nft does not print, as it stands."""
    try:
        return statement_text(statement)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError):
        return str(statement)


def statement_text(statement: Any) -> str:
    """One statement."""
    if not isinstance(statement, dict) or len(statement) != 1:
        return str(statement)
    ((name, body),) = statement.items()
    maker = _STATEMENTS.get(name)
    if maker is not None:
        return str(maker(body))
    if body is None:
        return str(name)
    if name == "xt":
        return f"xt {body.get('type', '')} {body.get('name', '')}" if isinstance(body, dict) else "xt"
    return f"{name} {value_text(body)}"


def value_text(value: Any) -> str:
    """An expression or a literal."""
    if isinstance(value, bool):
        return "exists" if value else "missing"
    if isinstance(value, (int, str)):
        return str(value)
    if isinstance(value, list):
        return ", ".join(map(value_text, value))
    if not isinstance(value, dict):
        return str(value)
    if len(value) != 1:
        return " ".join(f"{key} {value_text(each)}" for key, each in value.items())
    ((name, body),) = value.items()
    maker = _VALUES.get(name)
    return maker(body) if maker is not None else f"{name} {value_text(body)}"


def _match(body: dict[str, Any]) -> str:
    operator = body.get("op", "==")
    left, right = value_text(body["left"]), value_text(body["right"])
    return f"{left} {right}" if operator in ("==", "in") else f"{left} {operator} {right}"


def _mangle(body: dict[str, Any]) -> str:
    return f"{value_text(body['key'])} set {value_text(body['value'])}"


def _nat(name: str) -> Any:
    def make(body: Any) -> str:
        body = body or {}
        words = [name]
        if "addr" in body:
            family = f"{body['family']} " if "family" in body else ""
            words.append(f"{family}to {value_text(body['addr'])}")
        if "port" in body:
            words[-1] = (
                f"{words[-1]}:{value_text(body['port'])}"
                if "addr" in body
                else f"{name} to :{value_text(body['port'])}"
            )
        flags = body.get("flags", [])
        return " ".join([*words, ",".join([flags] if isinstance(flags, str) else flags)]).rstrip()

    return make


def _reject(body: Any) -> str:
    if not body:
        return "reject"
    return (
        "reject with tcp reset"
        if body.get("type") == "tcp reset"
        else f"reject with {body.get('type', 'icmp')} {body.get('expr', '')}".rstrip()
    )


def _set(body: Any) -> str:
    if not isinstance(body, dict):
        return f"{{ {value_text(body)} }}"
    return f"{body.get('op', 'add')} {body.get('set', '')} {{ {value_text(body.get('elem', ''))} }}"


def _elements(body: Any) -> str:
    parts = []
    for element in body if isinstance(body, list) else [body]:
        if isinstance(element, list) and len(element) == 2:
            parts.append(f"{value_text(element[0])} : {verdict_text(element[1])}")
        else:
            parts.append(value_text(element))
    return "{ " + ", ".join(parts) + " }"


def verdict_text(data: Any) -> str:
    """A verdict or a value on the right of a map's element."""
    if isinstance(data, dict) and len(data) == 1:
        ((name, body),) = data.items()
        if name in ("jump", "goto"):
            return f"{name} {body['target']}"
        if body is None:
            return str(name)
    return value_text(data)


def _data(data: Any) -> str:
    return data if isinstance(data, str) else _elements(data.get("set", data) if isinstance(data, dict) else data)


def _fib(body: dict[str, Any]) -> str:
    flags = body["flags"] if isinstance(body["flags"], list) else [body["flags"]]
    return f"fib {' . '.join(flags)} {body['result']}"


def _numgen(body: dict[str, Any]) -> str:
    offset = f" offset {body['offset']}" if body.get("offset") else ""
    return f"numgen {body.get('mode', 'inc')} mod {body['mod']}{offset}"


def _jhash(body: dict[str, Any]) -> str:
    seed = f" seed {body['seed']:#x}" if "seed" in body else ""
    offset = f" offset {body['offset']}" if body.get("offset") else ""
    return f"jhash {value_text(body['expr'])} mod {body['mod']}{seed}{offset}"


def _payload(body: dict[str, Any]) -> str:
    return (
        f"@{body['base']},{body['offset']},{body['len']}" if "base" in body else f"{body['protocol']} {body['field']}"
    )


def _meta(body: dict[str, Any]) -> str:
    return str(body["key"]) if body["key"] in ("iif", "oif", "iifname", "oifname") else f"meta {body['key']}"


def _ct(body: dict[str, Any]) -> str:
    return " ".join(["ct", *([body["dir"]] if "dir" in body else []), body["key"]])


def _elem(body: dict[str, Any]) -> str:
    extra = "".join(
        f" {key} {body[key]}{'s' if key in ('timeout', 'expires') else ''}"
        for key in ("timeout", "expires")
        if key in body
    )
    comment = f' comment "{body["comment"]}"' if "comment" in body else ""
    return f"{value_text(body['val'])}{extra}{comment}"


def _operator(sign: str) -> Any:
    def make(body: list[Any]) -> str:
        return f" {sign} ".join(
            f"{part:#x}" if isinstance(part, int) and not isinstance(part, bool) else value_text(part) for part in body
        )

    return make


_STATEMENTS: dict[str, Any] = {
    "match": _match,
    "mangle": _mangle,
    "counter": lambda body: "counter",
    "jump": lambda body: f"jump {body['target']}",
    "goto": lambda body: f"goto {body['target']}",
    "dnat": _nat("dnat"),
    "snat": _nat("snat"),
    "masquerade": _nat("masquerade"),
    "redirect": _nat("redirect"),
    "reject": _reject,
    "set": _set,
    "vmap": lambda body: f"{value_text(body['key'])} vmap {_data(body['data'])}",
    "limit": lambda body: f"limit rate {body.get('rate', '')}/{body.get('per', 'second')}",
    "unknown": str,
}
_VALUES: dict[str, Any] = {
    "payload": _payload,
    "meta": _meta,
    "ct": _ct,
    "fib": _fib,
    "numgen": _numgen,
    "jhash": _jhash,
    "concat": lambda body: " . ".join(map(value_text, body)),
    "set": _elements,
    "map": lambda body: f"{value_text(body['key'])} map {_data(body['data'])}",
    "prefix": lambda body: f"{body['addr']}/{body['len']}",
    "range": lambda body: f"{value_text(body[0])}-{value_text(body[1])}",
    "elem": _elem,
    "&": _operator("&"),
    "|": _operator("|"),
    "^": _operator("^"),
    "<<": _operator("<<"),
    ">>": _operator(">>"),
}
