#!/bin/sh
# Makes a clean Debian machine able to run glassnet: Debian packages by name, a Python environment in .venv, a kubectl that is new enough.
# Does only what is missing. Without the rights to install packages it says exactly which ones are missing, and stops.
set -eu
cd "$(dirname "$0")/.."

# program package
NEEDS="
ip iproute2
iptables-restore iptables
nft nftables
conntrack conntrack
ethtool ethtool
brctl bridge-utils
ping iputils-ping
ps procps
lsns util-linux
nsenter util-linux
unshare util-linux
setpriv util-linux
curl curl
nc netcat-openbsd
ifconfig net-tools
column bsdextrautils
tcpdump tcpdump
ipset ipset
knotd knot
nginx nginx
/usr/lib/nginx/modules/ngx_stream_module.so libnginx-mod-stream
bird bird2
"

# the tests compare with the reference CNI plugins, and have real runtimes call CNI plugins, for containers made of busybox
[ -z "${TESTS:-}" ] || NEEDS="$NEEDS
as binutils
systemd-analyze systemd
/usr/lib/cni/bridge containernetworking-plugins
containerd containerd
runc runc
podman podman
busybox busybox-static
dig bind9-dnsutils
dnsperf dnsperf
wrk wrk"

# a file that is no program (a module of NGINX) is there or not; all else is looked up
have() { case $1 in /*.so) [ -e "$1" ] && return ;; esac; PATH="$PATH:/usr/sbin:/sbin" command -v "$1" >/dev/null 2>&1; }

missing=$(echo "$NEEDS" | while read -r program package; do
    [ -z "$program" ] || have "$program" || echo "$package"
done)
python=${PYTHON:-python3}
"$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || missing="$missing python3 python3-venv"
missing=$(echo "$missing" | tr ' ' '\n' | sort -u | tr '\n' ' ')

as_root=""
if [ "$(id -u)" != 0 ]; then as_root="sudo -n"; fi
can_install() { have apt-get && { [ "$(id -u)" = 0 ] || sudo -n true 2>/dev/null; }; }

if [ -n "$(echo "$missing" | tr -d ' ')" ]; then
    if ! can_install; then
        echo "glassnet needs Debian packages that this machine lacks, and installing them takes root or sudo:" >&2
        echo "    apt-get install --no-install-recommends $missing" >&2
        exit 1
    fi
    echo "Installing Debian packages: $missing"
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq update
    # The packages knot, nginx and bird2 would each start a server of their own, and again at every boot; only the programs are wanted. Who has one
    # already keeps it as it is.
    own_servers=""
    for name in knot nginx bird2; do
        case " $missing " in *" $name "*) [ ! -d /run/systemd/system ] || own_servers="$own_servers ${name%2}.service" ;; esac
    done
    # shellcheck disable=SC2086
    [ -z "$own_servers" ] || $as_root systemctl mask --runtime --quiet $own_servers
    # The package podman brings a network in /etc/cni/net.d, which whatever else runs pods here (kubelet, say) would take for its own.
    # shellcheck disable=SC2086
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends \
        -o Dpkg::Options::='--path-exclude=/etc/cni/*' $missing >/dev/null
    if [ -n "$own_servers" ]; then
        # shellcheck disable=SC2086
        $as_root systemctl unmask --runtime --quiet $own_servers
        # shellcheck disable=SC2086
        $as_root systemctl disable --quiet $own_servers
    fi
fi

if ! [ -x .venv/bin/python ]; then "$python" -m venv .venv; fi
if ! cmp -s requirements.lock .venv/requirements.lock; then
    echo "Installing Python packages into .venv"
    .venv/bin/python -m pip --disable-pip-version-check install -q --require-hashes -r requirements.lock
    .venv/bin/python -m pip --disable-pip-version-check install -q --no-deps --no-build-isolation -e .
    cp requirements.lock .venv/requirements.lock
fi

# Real kubectl, 1.30 or newer. Debian 12 has 1.20; the next release's package has a newer one, and it is unpacked here, not installed.
new_enough() {
    "$1" version --client 2>/dev/null | grep -Eq 'Client Version: v1\.(3[0-9]|[4-9][0-9])\.'
}
if ! { [ -x .venv/bin/kubectl ] && new_enough .venv/bin/kubectl; } && ! { have kubectl && new_enough kubectl; }; then
    echo "Fetching kubectl from Debian's packages"
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    # apt fetches as the user _apt: without this it would warn about a directory that user cannot enter
    chmod 755 "$work"
    mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/etc/preferences.d"
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Label: Debian' 2>/dev/null | head -n 1)
    if [ -z "$mirror" ]; then
        if ! can_install; then
            echo "No kubectl 1.30 or newer on the PATH, and apt-get knows no Debian mirror (its lists are empty: 'apt-get update' as root)." >&2
            exit 1
        fi
        $as_root apt-get -qq update
        mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Label: Debian' | head -n 1)
    fi
    echo "deb $mirror trixie main" > "$work/sources.list"
    : > "$work/status" # what is installed on this machine must not decide which version is fetched
    apt() {
        apt-get -qq -o Dir::Etc::SourceList="$work/sources.list" -o Dir::Etc::SourceParts=- -o Dir::State::Lists="$work/lists" \
            -o Dir::State::status="$work/status" -o Dir::Cache="$work/cache" -o Dir::Etc::PreferencesParts="$work/etc/preferences.d" -o APT::Sandbox::User="$(id -un)" "$@"
    }
    apt update
    (cd "$work" && apt download kubectl && dpkg-deb -x kubectl_*.deb unpacked)
    cp "$work/unpacked/usr/bin/kubectl" .venv/bin/kubectl
    new_enough .venv/bin/kubectl || { echo "The kubectl of Debian's packages is older than 1.30." >&2; exit 1; }
fi
