# Sourced by tests/run and tests/demo: what a fresh Debian machine lacks. Needs root only for packages.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

packages=(postgresql postgresql-15-repmgr repmgr barman barman-cli iptables nftables conntrack iproute2 sudo systemd
          systemd-container procps util-linux python3-venv openssh-client openssh-server rsync python3-psycopg
          python3-yaml python3-sh)

# What the benchmark of what a user would pick instead needs besides: install_packages "${packages_to_compare[@]}"
packages_to_compare=(haproxy)

install_packages() {
    local packages=("${packages[@]}" "$@")
    if dpkg --status "${packages[@]}" >/dev/null 2>&1; then return; fi
    echo "installing: ${packages[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get -qq update
    apt-get -qq install --no-install-recommends postgresql-common >/dev/null
    # The lab makes its own clusters; the machine gets none.
    mkdir -p /etc/postgresql-common/createcluster.d
    echo "create_main_cluster = false" > /etc/postgresql-common/createcluster.d/repmgr-hooks-tests.conf
    # Likewise sshd: it runs in the lab only, unless the machine had it before.
    [ -x /usr/sbin/sshd ] || { mkdir -p /etc/ssh && touch /etc/ssh/sshd_not_to_be_run; }
    apt-get -qq install --no-install-recommends "${packages[@]}" >/dev/null
}

install_venv() {
    local wanted
    wanted=$(sha256sum pyproject.toml)
    if [ "$(cat .venv/wanted 2>/dev/null)" != "$wanted" ]; then
        rm -rf .venv
        "${PYTHON:-/usr/bin/python3}" -m venv .venv
        .venv/bin/pip -qq install hatchling hypothesis mypy prometheus_client pytest ruff types-PyYAML
        .venv/bin/pip -qq install .
        echo "$wanted" > .venv/wanted
    fi
    # Not editable: the gateway of the lab runs what a user would install.
    .venv/bin/pip -qq install --no-deps --no-build-isolation --force-reinstall .
}

# The same program with the libraries that Debian 12 has.
install_venv_of_debian() {
    if [ "$(cat .venv-debian/wanted 2>/dev/null)" != "$(cat .venv/wanted)" ]; then
        rm -rf .venv-debian
        /usr/bin/python3 -m venv --system-site-packages .venv-debian
        .venv-debian/bin/pip -qq install hatchling hypothesis pytest
        cp .venv/wanted .venv-debian/wanted
    fi
    .venv-debian/bin/pip -qq install --no-deps --no-build-isolation --force-reinstall .
}

install_newest_barman() {
    # Beside Debian's, which tests/lab runs too. psycopg2 and dateutil are Debian's.
    [ -x .venv-barman/bin/barman ] && return
    rm -rf .venv-barman
    /usr/bin/python3 -m venv --system-site-packages .venv-barman
    .venv-barman/bin/pip -qq install --no-deps --ignore-installed barman
}
