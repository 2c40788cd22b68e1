"""Random rules of iptables as users and other tools add them, in the form iptables-restore takes.

Answers of REJECT are let through first in every base chain: whether they come home is not what is asked here.
"""

from __future__ import annotations

from random import Random

from tests.fuzz_trace.scene import CLIENTS, INTERNAL, OTHERS, PODS, PORTS, cluster

HOOKS = {
    "raw": ("PREROUTING", "OUTPUT"),
    "mangle": ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"),
    "nat": ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"),
    "filter": ("INPUT", "FORWARD", "OUTPUT"),
}
CHAINS = 3
SETS = ("nets", "places", "hosts")
_REJECTS = {
    4: ("icmp-net-unreachable", "icmp-host-unreachable", "icmp-port-unreachable", "icmp-proto-unreachable", "icmp-net-prohibited", "icmp-host-prohibited", "icmp-admin-prohibited"),
    6: ("icmp6-no-route", "icmp6-adm-prohibited", "icmp6-addr-unreachable", "icmp6-port-unreachable", "icmp6-policy-fail", "icmp6-reject-route"),
}  # fmt: skip


class XtRules:
    """Makes the rules of one family. `sets`: ipset can be used."""

    def __init__(self, random: Random, version: int, sets: bool) -> None:
        self.random, self.version, self.sets = random, version, sets

    def texts(self) -> list[str]:
        """Inputs for `iptables-restore --noflush`, one a table."""
        found = []
        for table in self.random.sample(sorted(HOOKS), self.random.randint(1, 4)):
            lines = [f"*{table}", *(f":FUZZ-{n} - [0:0]" for n in range(CHAINS))]
            for hook in HOOKS[table]:
                if table != "nat":
                    lines += [f"-A {hook} {match} -j ACCEPT" for match in self._answers()]
                if self.random.random() < 0.6:
                    lines += [self._rule(table, hook, hook, CHAINS) for _ in range(self.random.randint(1, 3))]
            for number in range(CHAINS):
                # a chain that any base chain may lead to: matches and targets that all of them allow
                lines += [self._rule(table, f"FUZZ-{number}", "", number) for _ in range(self.random.randint(1, 5))]
            found.append("\n".join([*lines, "COMMIT"]) + "\n")
        return found

    def _answers(self) -> list[str]:
        if self.version == 4:
            kinds = ["-p icmp -m icmp --icmp-type 3", "-p icmp -m icmp --icmp-type 11"]
        else:
            kinds = [f"-p icmpv6 -m icmp6 --icmpv6-type {n}" for n in (1, 3)]
        return [*kinds, "-p tcp -m tcp --tcp-flags RST RST"]

    def _rule(self, table: str, chain: str, hook: str, below: int) -> str:
        protocol = self.random.choice(("", "", "tcp", "udp", "sctp", "icmp"))
        matches = [self._match(hook, protocol) for _ in range(self.random.choice((0, 1, 1, 2, 3)))]
        target, needs = self._target(table, hook, below, protocol)
        if needs and needs != protocol:
            protocol, matches = needs, [self._match(hook, needs) for _ in range(self.random.choice((0, 1)))]
        name = "icmpv6" if (protocol, self.version) == ("icmp", 6) else protocol
        words = [f"-p {name}"] if name else []
        # each module once: iptables-nft-save 1.8.9 shows only one of two `-m udp`
        matches = list({match.split()[1]: match for match in matches}.values())
        return " ".join(["-A", chain, *words, *self._own_words(hook), *matches, target])

    def _own_words(self, hook: str) -> list[str]:
        words = []
        if self.random.random() < 0.25:
            words.append(f"{self._not()}-s {self._network()}")
        if self.random.random() < 0.25:
            words.append(f"{self._not()}-d {self._network()}")
        if hook in ("PREROUTING", "INPUT", "FORWARD") and self.random.random() < 0.2:
            words.append(f"{self._not()}-i {self._device()}")
        if hook in ("POSTROUTING", "OUTPUT", "FORWARD") and self.random.random() < 0.2:
            words.append(f"{self._not()}-o {self._device()}")
        return words

    def _not(self) -> str:
        return self.random.choice(("", "", "! "))

    def _device(self) -> str:
        return self.random.choice(("pods", "outside", "other", "lo", "o+", "p+"))

    def _address(self) -> str:
        v = self.version
        pool = [*CLIENTS[v], *OTHERS[v], INTERNAL[v], *(cluster(v, k, n) for k in (0, 3) for n in range(1, 5))]
        return self.random.choice(pool)

    def _network(self) -> str:
        if self.random.random() < 0.3:
            return self._address()
        wide = {4: ("10.2.0.0/29", "10.0.0.0/8", "203.0.113.0/24", "172.30.0.0/30", "0.0.0.0/1", "128.0.0.0/2"), 6: (PODS[6], "2001:db8:99::/64", "fd00:30::/126", "8000::/1", "2000::/3")}  # fmt: skip
        return self.random.choice(wide[self.version])

    def _port(self) -> str:
        roll = self.random.random()
        return (
            str(self.random.choice(PORTS))
            if roll < 0.7
            else self.random.choice(("1:1024", "8000:9000", "30000:32767", "40000:40040"))
        )

    def _match(self, hook: str, protocol: str) -> str:
        general = [
            lambda: f"-m conntrack {self._not()}--ctstate {self.random.choice(('NEW', 'INVALID', 'RELATED,ESTABLISHED', 'NEW,INVALID', 'UNTRACKED', 'DNAT', 'SNAT'))}",
            lambda: f"-m conntrack {self._not()}--{self.random.choice(('ctorigdst', 'ctorigsrc', 'ctrepldst', 'ctreplsrc'))} {self._network()}",
            lambda: f"-m conntrack --ctdir {self.random.choice(('ORIGINAL', 'REPLY'))}",
            lambda: f"-m conntrack {self._not()}--ctstatus {self.random.choice(('NONE', 'CONFIRMED', 'SEEN_REPLY', 'ASSURED'))}",
            lambda: f"-m mark {self._not()}--mark {self.random.choice(('0x1/0x3', '0x0', '0x100/0x100', '0x4000/0x4000', '0x2/0xff'))}",
            lambda: f"-m connmark {self._not()}--mark {self.random.choice(('0x1/0x3', '0x0', '0x100/0x100'))}",
            lambda: f"-m addrtype {self._not()}--{self.random.choice(('src', 'dst'))}-type {self.random.choice(('LOCAL', 'UNICAST', 'LOCAL,UNICAST', 'MULTICAST', *(['BROADCAST'] if self.version == 4 else [])))}",
            self._range, self._length, self._ttl,
            lambda: f"-m dscp {self._not()}--dscp {self.random.choice(('0x01', '0x0a', '0x00'))}",
            lambda: f"-m statistic --mode random {self._not()}--probability {self.random.choice(('0.5', '0.25', '0.9'))}",
            lambda: f"-m comment --comment \"it's {self.random.randint(1, 9)} \\\"x\\\" -j DROP\"",
        ]  # fmt: skip
        if self.sets:
            general += [self._set]
        if protocol in ("tcp", "udp", "sctp"):
            general += [lambda: self._ports(protocol)] * 6
        if protocol == "tcp":
            general += [lambda: f"-m tcp {self._not()}--tcp-flags {self.random.choice(('SYN,ACK SYN', 'FIN,SYN,RST,ACK SYN', 'SYN SYN', 'ALL ACK', 'ALL NONE', 'ACK ACK'))}"] * 2  # fmt: skip
            general += [lambda: f"-m tcp {self._not()}--syn"]
        if protocol == "icmp":
            kinds = ("echo-request", "echo-reply", "8/0", "13", "8", "any") if self.version == 4 else ("echo-request", "129", "128/0", "139")  # fmt: skip
            word = "icmp --icmp-type" if self.version == 4 else "icmp6 --icmpv6-type"
            general += [lambda: f"-m {word.split()[0]} {self._not()}{word.split()[1]} {self.random.choice(kinds)}"] * 4
        return self.random.choice(general)()

    def _ports(self, protocol: str) -> str:
        if self.random.random() < 0.5:
            return f"-m {protocol} {self._not()}--{self.random.choice(('dport', 'dport', 'sport'))} {self._port()}"
        ports = ",".join(dict.fromkeys(self._port() for _ in range(self.random.randint(1, 4))))
        return f"-m multiport {self._not()}--{self.random.choice(('dports', 'sports', 'ports'))} {ports}"

    def _range(self) -> str:
        low, high = ("10.2.0.2", "10.9.0.9") if self.version == 4 else ("fd00:10:2::2", "fd00:30::3")
        return f"-m iprange {self._not()}--{self.random.choice(('src', 'dst'))}-range {low}-{high}"

    def _length(self) -> str:
        return f"-m length {self._not()}--length {self.random.choice(('40', '0:39', '41:100', '32', '60:65535'))}"

    def _ttl(self) -> str:
        word = "ttl" if self.version == 4 else "hl"
        return f"-m {word} --{word}-{self.random.choice(('eq', 'lt', 'gt'))} {self.random.choice((1, 2, 63, 64))}"

    def _set(self) -> str:
        name = self.random.choice(SETS)
        ends = {"nets": 1, "places": 2, "hosts": 1}[name]
        where = ",".join(self.random.choice(("src", "dst")) for _ in range(ends))
        return f"-m set {self._not()}--match-set {name}{self.version} {where}"

    # -- targets: (words, the protocol they need)

    def _target(self, table: str, hook: str, below: int, protocol: str) -> tuple[str, str]:
        roll = self.random.random()
        if below and roll < 0.25:
            return f"-{self.random.choice('jjg')} FUZZ-{self.random.randrange(below)}", ""
        if roll < 0.4:
            return self.random.choice(("-j ACCEPT", "-j RETURN", "-j RETURN", "")), ""
        if table == "nat":
            return self._nat(hook)
        if roll < 0.5 and table != "nat":
            return "-j DROP", ""
        if table == "filter" and roll < 0.75:
            if protocol == "tcp" and self.random.random() < 0.5:
                return "-j REJECT --reject-with tcp-reset", "tcp"
            return f"-j REJECT --reject-with {self.random.choice(_REJECTS[self.version])}", ""
        if table == "raw":
            return self.random.choice(("-j CT --notrack", "-j ACCEPT")), ""
        if table == "mangle":
            return self._mangle(), ""
        return self.random.choice(('-j LOG --log-prefix "a -j DROP "', "", "-j RETURN")), ""

    def _mangle(self) -> str:
        mark = self.random.choice(("0x1/0x3", "0x100/0x100", "0x2/0xff", "0x0/0x100", "0x3/0x3"))
        return self.random.choice((
            f"-j MARK --set-xmark {mark}", f"-j MARK --set-mark {mark}", f"-j CONNMARK --set-xmark {mark}", "-j CONNMARK --save-mark",
            "-j CONNMARK --restore-mark", "-j CONNMARK --save-mark --nfmask 0xff --ctmask 0x3", "-j MARK --or-mark 0x100", "-j MARK --and-mark 0xff",
            "-j MARK --xor-mark 0x1", "-j DSCP --set-dscp 0x0a", "-j TTL --ttl-set 5" if self.version == 4 else "-j HL --hl-set 5", "-j ACCEPT",
        ))  # fmt: skip

    def _nat(self, hook: str) -> tuple[str, str]:
        source, port = hook in ("POSTROUTING", "INPUT"), self.random.choice(PORTS)
        ip = self._address()
        needs = self.random.choice(("tcp", "udp"))
        if not hook:
            return self.random.choice(("-j ACCEPT", "-j RETURN", "-j MARK --set-xmark 0x1/0x3")), ""
        network = "10.200.3.0/24" if self.version == 4 else "fd00:10:200::/64"
        first, last = ("10.200.3.3", "10.200.3.6") if self.version == 4 else ("[fd00:10:200::3]", "[fd00:10:200::6]")
        both = f"{first}-{last}" if self.version == 4 else f"{first[1:-1]}-{last[1:-1]}"
        word, to = ("SNAT", "to-source") if source else ("DNAT", "to-destination")
        # sources get a wide range of ports: two connections cannot have one and the same
        ports = f"{port}-{port + 3000}" if source else str(port)
        choices = [
            (f"-j {word} --{to} {ip}", ""), (f"-j {word} --{to} {both}", ""), (f"-j NETMAP --to {network}", ""),
            (f"-j {word} --{to} {ip if self.version == 4 else f'[{ip}]'}:{ports}", needs),
            (f"-j {word} --{to} :{port}-{port + 3000}", needs) if self.version == 4 else (f"-j {word} --{to} {ip}", ""),
        ]  # fmt: skip
        if hook == "POSTROUTING":
            choices += [("-j MASQUERADE", ""), ("-j MASQUERADE --random", ""), (f"-j MASQUERADE --to-ports {port}-{port + 3000}", needs)]  # fmt: skip
        elif not source:
            choices += [("-j REDIRECT", ""), (f"-j REDIRECT --to-ports {port}", needs), (f"-j REDIRECT --to-ports {port}-{port + 9}", needs)]  # fmt: skip
        return self.random.choice(choices)


def ipsets(random: Random) -> str:
    """Input for `ipset restore`: the sets that rules ask."""
    lines = []
    for version, family in ((4, "inet"), (6, "inet6")):
        lines += [f"create {kind}{version} {form} family {family}" for kind, form in (("nets", "hash:net"), ("places", "hash:ip,port"), ("hosts", "hash:ip"))]  # fmt: skip
        nets = ("10.2.0.0/30", "203.0.113.0/24", "10.0.0.0/9") if version == 4 else ("fd00:10:2::/126", "2001:db8::/32")
        lines += [f"add nets{version} {net}" for net in nets]
        lines.append(f"add nets{version} {nets[-1].split('/')[0]}/{31 if version == 4 else 120} nomatch")
        hosts = [*CLIENTS[version], *OTHERS[version], cluster(version, 0, 1), cluster(version, 3, 2)]
        lines += [f"add hosts{version} {ip}" for ip in random.sample(hosts, 5)]
        lines += [f"add places{version} {ip},{random.choice(('tcp', 'udp', 'sctp'))}:{random.choice(PORTS)}" for ip in hosts]  # fmt: skip
    return "\n".join(lines) + "\n"
