# Debian's Mosquitto for the tests that need a real broker; sourced by the scripts beside it.

has_mosquitto() { PATH="$PATH:/usr/sbin:/usr/local/sbin" command -v mosquitto >/dev/null 2>&1; }

# ensure_mosquitto: install it when it is missing and we may; the tests start their own on free ports, so the
# service that the package brings is switched off again.
ensure_mosquitto() {
    has_mosquitto && return 0
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
        say "mosquitto is missing (apt-get install mosquitto): the tests that need it are skipped"
        return 0
    fi
    say "Installing mosquitto"
    export DEBIAN_FRONTEND=noninteractive
    apt-get install -qq -y --no-install-recommends mosquitto </dev/null >/dev/null 2>&1 ||
        { apt-get update -qq </dev/null && apt-get install -qq -y --no-install-recommends mosquitto </dev/null; } \
            >/dev/null 2>&1 ||
        say "mosquitto cannot be installed: the tests that need it are skipped"
    if has_mosquitto && [ -d /run/systemd/system ]; then
        systemctl disable --quiet --now mosquitto || true
    fi
}
