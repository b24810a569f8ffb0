# Sourced by the scripts that need a program of Debian. Needs apt, but no root.
#   unpack DIR PACKAGE...   download the packages and unpack them into DIR
unpack() {
    local home="$1" work
    shift
    work="$(mktemp -d)"
    trap 'rm -rf "'"$work"'"' EXIT
    chmod 755 "$work"
    mkdir -p "$home"
    home="$(cd "$home" && pwd)"
    cd "$work"
    # With lists of its own, apt needs no root, and no earlier `apt-get update`.
    mkdir -p lists/partial cache/archives/partial
    local own=(-qq -o Dir::State::Lists="$work/lists" -o Dir::Cache="$work/cache" -o APT::Sandbox::User= -o Acquire::Retries=3)
    apt-get "${own[@]}" update
    apt-get "${own[@]}" download "$@"
    for package in ./*.deb; do dpkg-deb -x "$package" "$home"; done
}
