# Sourced by tests/run, tests/demo and tests/matrix: what a fresh Debian machine lacks. Needs root only for packages.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Debian's metapackages: they bring the PostgreSQL of this Debian, and the repmgr for it. Barman from PyPI wants `file`.
packages=(postgresql repmgr barman barman-cli pgbouncer pgbackrest pgpool2 haproxy prometheus prometheus-node-exporter
          file lz4 zstd iptables nftables conntrack iproute2 mandoc sudo systemd systemd-container procps util-linux python3-venv
          locales openssh-client openssh-server rsync python3-psycopg python3-yaml python3-sh keepalived
          conntrackd zsh)

# What builds the Debian package and the RPM, and judges them.
packages_to_build=(build-essential debhelper dpkg-dev fakeroot lintian pybuild-plugin-pyproject python3-all
                   python3-hatchling python3-shtab rpm rpmlint unzip)

needs_root() {
    [ "$(id -u)" -eq 0 ] || { echo "$1" >&2; exit 2; }
}

install_packages() {
    if are_installed "${packages[@]}" "$@"; then return; fi
    # The lab makes its own clusters; the machine gets none.
    mkdir -p /etc/postgresql-common/createcluster.d
    echo "create_main_cluster = false" > /etc/postgresql-common/createcluster.d/repmgr-hooks-tests.conf
    # Likewise sshd: it runs in the lab only, unless the machine had it before.
    [ -x /usr/sbin/sshd ] || { mkdir -p /etc/ssh && touch /etc/ssh/sshd_not_to_be_run; }
    # And what else its package would start; pgpool2 has the program pgpool.
    local unit
    for unit in pgbouncer pgpool2 prometheus prometheus-node-exporter keepalived conntrackd; do
        command -v "${unit%2}" >/dev/null || { mkdir -p /etc/systemd/system && ln -sf /dev/null "/etc/systemd/system/$unit.service"; }
    done
    # First: PostgreSQL's packages ask its programs which clusters there are.
    install_missing postgresql-common
    install_missing "${packages[@]}" "$@"
}

install_missing() {
    if are_installed "$@"; then return; fi
    echo "installing: $*"
    export DEBIAN_FRONTEND=noninteractive
    apt-get -qq update
    apt-get -qq install --no-install-recommends "$@" >/dev/null
}

are_installed() {
    local states
    states=$(dpkg-query --show --showformat '${db:Status-Status}\n' "$@" 2>/dev/null) || return 1
    ! grep -qvx installed <<< "$states"
}

install_venv() {
    local python="${PYTHON:-/usr/bin/python3}" wanted
    # A virtual environment can be made, and psycopg finds its library.
    if ! "$python" -c 'import ctypes.util, ensurepip, sys; sys.exit(not ctypes.util.find_library("pq"))' 2>/dev/null; then
        needs_root "python3-venv or libpq5 is missing: apt-get install python3-venv libpq5, or run this as root"
        install_missing python3-venv libpq5
    fi
    wanted=$("$python" --version; sha256sum pyproject.toml)
    if [ "$(cat .venv/wanted 2>/dev/null)" != "$wanted" ]; then
        rm -rf .venv
        "$python" -m venv .venv
        .venv/bin/pip -qq install hatchling hypothesis jsonschema mypy prometheus_client pytest ruff shtab types-PyYAML
        .venv/bin/pip -qq install .
        echo "$wanted" > .venv/wanted
    fi
    # Not editable: the gateway of the lab runs what a user would install.
    .venv/bin/pip -qq install --no-deps --no-build-isolation --force-reinstall .
}

# The libraries that the RPM carries, as wheels without anything compiled.
fetch_libraries_of_rpm() {
    local wanted=systemd/rpm/requirements.txt
    if cmp -s "$wanted" .venv/wheels/requirements.txt; then return; fi
    rm -rf .venv/wheels
    PYYAML_FORCE_LIBYAML=0 .venv/bin/pip -qq wheel --no-deps --no-binary pyyaml --wheel-dir .venv/wheels -r "$wanted"
    cp "$wanted" .venv/wheels/
}

# The same program with the libraries that this Debian has.
install_venv_of_debian() {
    if [ "$(cat .venv-debian/wanted 2>/dev/null)" != "$(cat .venv/wanted)" ]; then
        rm -rf .venv-debian
        /usr/bin/python3 -m venv --system-site-packages .venv-debian
        # Not Debian's own hatchling, which is there to build the package: that of Debian 12 installs no script.
        .venv-debian/bin/pip -qq install --ignore-installed hatchling
        .venv-debian/bin/pip -qq install hypothesis jsonschema pytest shtab
        cp .venv/wanted .venv-debian/wanted
    fi
    .venv-debian/bin/pip -qq install --no-deps --no-build-isolation --force-reinstall .
}

install_newest_barman() {
    # Beside Debian's, which tests/lab runs too. psycopg2 and dateutil are Debian's.
    if [ ! -x .venv-barman/bin/barman ]; then
        rm -rf .venv-barman
        /usr/bin/python3 -m venv --system-site-packages .venv-barman
        .venv-barman/bin/pip -qq install --no-deps --ignore-installed barman
    fi
    # What it compresses with; a Python for which they are not built goes without, and these tests are skipped.
    .venv-barman/bin/python -c "import lz4, zstandard" 2>/dev/null ||
        .venv-barman/bin/pip -qq install --only-binary :all: lz4 zstandard || true
}
