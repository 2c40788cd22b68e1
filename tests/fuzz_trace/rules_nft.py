"""Random tables of nft: sets, maps, verdict maps, concatenations, intervals, chains at odd and at equal priorities.

Each table is one transaction, so that the listing's order is that of registration.
"""

from __future__ import annotations

from random import Random

from tests.fuzz_trace.scene import CLIENTS, INTERNAL, OTHERS, PODS, PORTS, cluster

FILTER_HOOKS = ("prerouting", "input", "forward", "output", "postrouting")
# those of connection tracking itself and of its translation are left out: the kernel's own hooks stand there
PRIORITIES = (-350, -300, -250, -175, -150, -120, -50, -10, 0, 0, 0, 0, 10, 50, 90, 150, 225)
CHAINS = 3
_ANSWERS = (
    "icmp type { destination-unreachable, time-exceeded } accept",
    "icmpv6 type { destination-unreachable, time-exceeded } accept",
    "tcp flags & rst == rst accept",
)


class NftRules:
    """Makes one table."""

    def __init__(self, random: Random, number: int) -> None:
        self.random = random
        self.family = random.choice(("inet", "inet", "ip", "ip6"))
        self.versions = {"inet": (4, 6), "ip": (4,), "ip6": (6,)}[self.family]
        self.name = f"fuzz-{number}"
        self.extra: list[str] = []

    def text(self) -> str:
        """Input for `nft -f -`."""
        chains: list[str] = []
        for number in range(CHAINS):
            rules = [self._rule("", number) for _ in range(self.random.randint(1, 5))]
            chains.append(_chain(f"user{number}", "", rules))
        for number in range(self.random.randint(1, 4)):
            hook, priority = self.random.choice(FILTER_HOOKS), self.random.choice(PRIORITIES)
            kind = "route" if hook == "output" and self.random.random() < 0.4 else "filter"
            policy = self.random.choice(("accept", "accept", "accept", "drop")) if number == 0 else "accept"
            answers = [line for line in _ANSWERS if self.family == "inet" or line.startswith("tcp") or line.startswith("icmpv6") == (self.family == "ip6")]  # fmt: skip
            rules = [self._rule(hook, CHAINS) for _ in range(self.random.randint(1, 5))]
            head = f"type {kind} hook {hook} priority {priority}; policy {policy};"
            chains.append(_chain(f"{hook}{number}", head, [*answers, *rules]))
        for number in range(self.random.choice((0, 1, 1, 2))):
            hook = self.random.choice(("prerouting", "output", "input", "postrouting"))
            usual = -100 if hook in ("prerouting", "output") else 100
            priority = self.random.choice((usual, usual, usual - 10, usual + 10, 0))
            rules = [self._nat_rule(hook) for _ in range(self.random.randint(1, 3))]
            chains.append(_chain(f"nat-{hook}{number}", f"type nat hook {hook} priority {priority};", rules))
        return f"table {self.family} {self.name} {{\n" + "".join(self._sets()) + "".join(chains) + "}\n"

    def _sets(self) -> list[str]:
        found = []
        for v in self.versions:
            kind = f"ipv{v}_addr"
            nets = ", ".join(("10.2.0.0/30", "203.0.113.0-203.0.113.60", "172.30.0.2") if v == 4 else ("fd00:10:2::/126", "2001:db8:99::-2001:db8:99::60", "fd00:30::2"))  # fmt: skip
            hosts = ", ".join(self.random.sample(sorted({*self._pool(v)}), 5))
            found.append(f"set nets{v} {{ type {kind}; flags interval; elements = {{ {nets} }}; }}\n")
            found.append(f"set hosts{v} {{ type {kind}; elements = {{ {hosts} }}; }}\n")
            places = ", ".join(f"{ip} . {self._protocol()} . {self.random.choice(PORTS)}" for ip in sorted({*self._pool(v)}))  # fmt: skip
            found.append(f"set places{v} {{ type {kind} . inet_proto . inet_service; elements = {{ {places} }}; }}\n")
            wide = ", ".join(f"{net} . {low}-{low + 400}" for net, low in zip(self._nets(v), (50, 8000, 30000), strict=False))  # fmt: skip
            found.append(f"set boxes{v} {{ type {kind} . inet_service; flags interval; elements = {{ {wide} }}; }}\n")
            verdicts = ", ".join(f"{ip} : {self._verdict(1)}" for ip in self.random.sample(sorted({*self._pool(v)}), 4))
            found.append(f"map decide{v} {{ type {kind} : verdict; elements = {{ {verdicts} }}; }}\n")
            marks = ", ".join(f"{ip} : {self.random.choice((1, 2, 256))}" for ip in self._pool(v)[:3])
            found.append(f"map marks{v} {{ type {kind} : mark; elements = {{ {marks} }}; }}\n")
        found.append("set ports { type inet_service; flags interval; elements = { 53, 80-443, 30000-32767 }; }\n")
        found.append(f"map services {{ type inet_proto . inet_service : verdict; elements = {{ {self._services()} }}; }}\n")  # fmt: skip
        return found

    def _services(self) -> str:
        keys = dict.fromkeys(f"{self._protocol()} . {self.random.choice(PORTS)}" for _ in range(4))
        return ", ".join(f"{key} : {self._verdict(1)}" for key in keys)

    def _pool(self, v: int) -> list[str]:
        return list(dict.fromkeys((*CLIENTS[v], *OTHERS[v], INTERNAL[v], *(cluster(v, k, n) for k in (0, 3) for n in (1, 2, 3, 4)))))  # fmt: skip

    def _nets(self, v: int) -> tuple[str, ...]:
        return ("10.2.0.0/29", "203.0.113.0/25", "192.0.2.0/24") if v == 4 else ("fd00:10:2::/125", "2001:db8:99::/64", "2001:db8:2::/64")  # fmt: skip

    def _protocol(self) -> str:
        return self.random.choice(("tcp", "udp", "sctp"))

    def _verdict(self, below: int) -> str:
        choices = ["accept", "drop", "continue", "return"]
        if below:
            choices += [f"jump user{self.random.randrange(below)}", f"goto user{self.random.randrange(below)}"] * 2
        return self.random.choice(choices)

    # -- rules

    def _rule(self, hook: str, below: int) -> str:
        words = [self._match(hook) for _ in range(self.random.choice((0, 1, 1, 2)))]
        roll = self.random.random()
        if roll < 0.3:
            words.append(self._vmap(below))
        elif roll < 0.55:
            words += [self._change() for _ in range(self.random.choice((1, 1, 2)))]
        elif roll < 0.65 and hook not in ("postrouting", ""):
            words.append(self._reject())
        elif roll < 0.7 and hook in ("prerouting", "output"):
            words.append("notrack")
        else:
            words.append(self._verdict(below))
        return " ".join(words)

    def _ip(self) -> tuple[int, str]:
        v = self.random.choice(self.versions)
        return v, "ip" if v == 4 else "ip6"

    def _address(self, v: int) -> str:
        roll = self.random.random()
        if roll < 0.5:
            return self.random.choice(self._pool(v))
        if roll < 0.75:
            return self.random.choice((*self._nets(v), PODS[v]))
        return "10.2.0.2-10.9.0.9" if v == 4 else "fd00:10:2::2-fd00:30::3"

    def _not(self) -> str:
        return self.random.choice(("", "", "!= "))

    def _match(self, hook: str) -> str:
        v, ip = self._ip()
        end = self.random.choice(("saddr", "daddr"))
        p, number = self._protocol(), self.random.choice(PORTS)
        choices = [
            f"{ip} {end} {self._not()}{self._address(v)}",
            f"{ip} {end} {self._not()}{{ {', '.join(self.random.sample(self._pool(v), 3))} }}",
            f"{ip} {end} {self._not()}@{self.random.choice(('nets', 'hosts'))}{v}",
            f"{ip} {end} . meta l4proto . th dport {self._not()}@places{v}",
            f"{ip} {end} . {p} dport {self._not()}@boxes{v}",
            f"{p} {self.random.choice(('dport', 'dport', 'sport'))} {self._not()}{self.random.choice((str(number), '{ 53, 80 }', '1-1024', '@ports', '{ 1-100, 8000-9000 }'))}",
            f"meta l4proto {{ tcp, udp, sctp }} th dport {self.random.choice(('<', '>', '>=', '<='))} {number}" if self.random.random() < 0.3 else f"{p} dport {self.random.choice(('<', '>', '>=', '<='))} {number}",
            f"meta l4proto {self._not()}{self.random.choice(('tcp', 'udp', '{ tcp, sctp }', 'icmp', 'ipv6-icmp'))}",
            f"ct state {self._not()}{self.random.choice(('new', 'invalid', '{ new, invalid }', 'established,related', 'new,invalid', 'untracked'))}",
            f"ct status {self._not()}{self.random.choice(('dnat', 'snat', 'dnat,snat', 'confirmed'))}",
            f"ct original {ip} {end} {self._address(v)}",
            f"ct reply proto-{self.random.choice(('src', 'dst'))} {number}",
            f"ct direction {self.random.choice(('original', 'reply'))}", f"ct mark {self._not()}{self.random.choice((0, 1))}", "ct mark and 0x3 == 0x1",
            f"meta mark {self._not()}{self.random.choice(('0x1', '0x0', '{ 0x1, 0x2 }', '0x1-0x3'))}",
            f"meta mark and {self.random.choice(('0x3', '0x100', '0xff'))} {self.random.choice(('==', '!='))} {self.random.choice(('0x1', '0x0'))}",
            f"fib daddr type {self._not()}{self.random.choice(('local', 'unicast', '{ local, unicast }', 'broadcast'))}",
            f"fib saddr type {self._not()}{self.random.choice(('local', 'unicast'))}",
            f"tcp flags {self.random.choice(('syn', '== syn', '& (syn|ack) == syn', '& (fin|syn|rst|ack) == ack', '!= syn', '& fin != 0'))}",
            f"meta length {self.random.choice(('40', '<= 60', '> 60', '32-60'))}",
            f"ip ttl {self.random.choice(('64', '< 5', '> 63'))}" if v == 4 else f"ip6 hoplimit {self.random.choice(('64', '< 5', '> 63'))}",
            f"{ip} dscp {self._not()}{self.random.choice(('af11', 'ef', 'cs0', '{ ef, 0x01 }'))}", "numgen random mod 4 < 2",
            f"jhash {ip} saddr mod 8 seed {self.random.choice(('0x1', '0xdeadbeef'))} {self.random.choice(('0-3', '< 4', '{ 1, 3, 5 }'))}",
            f"jhash {ip} saddr . {ip} daddr mod 5 seed 0x7 offset 10 < 12", f"jhash {p} sport mod 3 seed 0x2 == 1",
            f"icmp type {self.random.choice(('echo-request', 'echo-reply', '{ echo-request, timestamp-request }'))}" if v == 4 else f"icmpv6 type {self._not()}{self.random.choice(('echo-request', 'echo-reply'))}",
        ]  # fmt: skip
        if len(self.versions) == 2:
            choices += [f"meta nfproto {self.random.choice(('ipv4', 'ipv6'))}", "meta protocol ip"]
        if hook in ("prerouting", "input", "forward"):
            choices += [f"iifname {self._not()}{self.random.choice(('pods', '{ pods, outside }', 'o*', 'lo'))}", f"iifname . {ip} saddr {{ pods . {cluster(v, 3, 1)}, outside . {CLIENTS[v][0]} }}"] * 2  # fmt: skip
        if hook == "prerouting":
            choices += ["fib saddr . iif oif missing", "fib saddr . iif oif exists", "fib saddr oif exists", "fib daddr . iif type local"]  # fmt: skip
        if hook in ("output", "postrouting", "forward"):
            choices += [f"oifname {self._not()}{self.random.choice(('pods', '{ other, outside }', 'o*', 'lo'))}"] * 2
        return self.random.choice(choices)

    def _vmap(self, below: int) -> str:
        v, ip = self._ip()
        verdict = lambda: self._verdict(below)  # noqa: E731
        return self.random.choice((
            f"{ip} {self.random.choice(('saddr', 'daddr'))} vmap @decide{v}" if below else "accept",
            "meta l4proto . th dport vmap @services" if below else "return",
            f"{ip} saddr vmap {{ {self._nets(v)[0]} : {verdict()}, {self._nets(v)[1]} : {verdict()} }}",
            f"numgen random mod 3 vmap {{ 0 : {verdict()}, 1 : {verdict()} }}", f"numgen inc mod 2 vmap {{ 0 : {verdict()}, 1 : {verdict()} }}",
            f"jhash {ip} daddr . th dport mod 4 seed 0x5 vmap {{ 0 : {verdict()}, 1-2 : {verdict()} }}",
            f"ct state vmap {{ new : {verdict()}, invalid : {verdict()} }}", f"tcp dport vmap {{ 53 : {verdict()}, 80-443 : {verdict()}, 8080 : {verdict()} }}",
            f"meta mark vmap {{ 0x0 : continue, 0x1 : {verdict()}, 0x100 : {verdict()} }}", f"fib daddr type vmap {{ local : {verdict()}, unicast : {verdict()} }}",
            f"meta l4proto vmap {{ tcp : {verdict()}, udp : {verdict()}, icmp : {verdict()} }}", f"{ip} daddr . tcp dport vmap {{ {cluster(v, 0, 1)} . 80 : {verdict()}, {self._nets(v)[0]} . 8000-9000 : {verdict()} }}",
        ))  # fmt: skip

    def _change(self) -> str:
        v, ip = self._ip()
        return self.random.choice((
            "meta mark set 0x1", "meta mark set meta mark | 0x100", "meta mark set meta mark & 0xff", "meta mark set meta mark ^ 0x3", "meta mark set (meta mark & 0xffffff00) | 0x2",
            "ct mark set meta mark", "meta mark set ct mark", "ct mark set 0x1", "ct mark set ct mark | 0x100", f"meta mark set {ip} daddr map @marks{v}",
            f"meta mark set {ip} saddr map {{ {self._nets(v)[0]} : 0x1, {self._nets(v)[1]} : 0x100 }}", "meta mark set jhash tcp dport mod 3 seed 0x9",
            "meta mark set numgen random mod 2", "counter", "meta mark set tcp dport map { 80 : 0x1, 443 : 0x100 }", f"{ip} dscp set af11",
            "ip ttl set 9" if v == 4 else "ip6 hoplimit set 9", "log prefix \"x \"", "meta mark set meta mark << 1",
        ))  # fmt: skip

    def _reject(self) -> str:
        kinds = ["reject", "meta l4proto tcp reject with tcp reset"]
        if self.family == "inet":
            kinds += [f"reject with icmpx {k}" for k in ("port-unreachable", "admin-prohibited", "no-route", "host-unreachable")]  # fmt: skip
        if 4 in self.versions:
            guard = "" if self.family == "ip" else "meta nfproto ipv4 "
            kinds += [f"{guard}reject with icmp {k}" for k in ("net-unreachable", "host-prohibited", "admin-prohibited")]  # fmt: skip
        if 6 in self.versions:
            guard = "" if self.family == "ip6" else "meta nfproto ipv6 "
            kinds += [f"{guard}reject with icmpv6 {k}" for k in ("no-route", "admin-prohibited", "addr-unreachable", "port-unreachable")]  # fmt: skip
        return self.random.choice(kinds)

    def _nat_rule(self, hook: str) -> str:
        source, (v, ip) = hook in ("postrouting", "input"), self._ip()
        word = "snat" if source else "dnat"
        if self.family == "inet":
            word += f" {ip}"
        p, port = self.random.choice(("tcp", "udp")), self.random.choice(PORTS)
        to = self.random.choice(self._pool(v))
        bracketed = f"[{to}]" if v == 6 else to
        low, high = ("10.200.3.3", "10.200.3.6") if v == 4 else ("fd00:10:200::3", "fd00:10:200::6")
        guard = f"meta nfproto ipv{v} " if self.family == "inet" else ""
        at = ("", "") if source else (" . 80", " . 81")
        choices = [
            # sources get a wide range of ports: two connections cannot have one and the same
            f"{guard}{word} to {to}", f"{guard}{word} to {low}-{high}", f"{p} dport {port} {word} to {bracketed}:{f'{port}-{port + 3000}' if source else port}",
            f"{word} to {ip} daddr map {{ {cluster(v, 0, 1)} : {cluster(v, 3, 1)}, {cluster(v, 0, 2)} : {cluster(v, 3, 2)} }}",
            f"meta l4proto {p} {word} to numgen random mod 2 map {{ 0 : {low}{at[0]}, 1 : {high}{at[1]} }}",
            f"meta l4proto {p} {word} to jhash {ip} saddr mod 2 seed 0x3 map {{ 0 : {low}{at[0]}, 1 : {high}{at[1]} }}",
            f"{word} prefix to {ip} {'saddr' if source else 'daddr'} map {{ {self._nets(v)[0]} : {'10.200.3.0/29' if v == 4 else 'fd00:10:200::/125'} }}",
            f"meta mark set 0x1 {ip} saddr {self._address(v)} accept", f"{p} dport {port} accept", "meta mark set 0x100",
        ]  # fmt: skip
        if hook == "postrouting":
            choices += [f"{self._match(hook)} masquerade", "masquerade random", f"meta l4proto {p} masquerade to :{port}-{port + 3000}"]  # fmt: skip
        elif not source:
            choices += [f"{p} dport {port} redirect to :{self.random.choice(PORTS)}", f"{ip} daddr {self._address(v)} redirect"]  # fmt: skip
        rule = self.random.choice(choices)
        return f"{self._match(hook)} {rule}" if self.random.random() < 0.4 else rule


def _chain(name: str, head: str, rules: list[str]) -> str:
    return f"chain {name} {{\n" + (f"{head}\n" if head else "") + "".join(f"{rule}\n" for rule in rules) + "}\n"
