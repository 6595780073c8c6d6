#!/usr/bin/env bash
# The user data of every instance: download the agent from S3, verify it, start it.
#
# A header before this text exports the variables that it needs:
#   RUNCTL_AGENT_URI RUNCTL_AGENT_SHA256 RUNCTL_TABLE RUNCTL_BUCKET RUNCTL_LOG_GROUP RUNCTL_REGION
#   RUNCTL_DEPLOYMENT RUNCTL_CREDENTIALS_FUNCTION
# In a command to an existing instance it also exports RUNCTL_ACTION, and existing_instance.sh follows.
# Every path is below ${RUNCTL_ROOT:-}, which is empty on EC2. The script can be repeated at any time.
set -euo pipefail
umask 022

root=${RUNCTL_ROOT:-}
imds=${AWS_EC2_METADATA_SERVICE_ENDPOINT:-http://169.254.169.254}
imds=${imds%/}
tries=${RUNCTL_BOOT_TRIES:-8}
delay=${RUNCTL_BOOT_DELAY:-1}
units=$root/etc/systemd/system
action=${RUNCTL_ACTION:-}
console=/dev/console
[ -z "$root" ] || console=$root/run/runctl/console

say() {
    printf 'runctl bootstrap: %s\n' "$*" >&2
    { printf 'runctl bootstrap: %s\n' "$*" >"$console"; } 2>/dev/null || true
}

# An instance that cannot train must not continue to cost money.
give_up() {
    gave_up=yes
    if [ -n "$action" ]; then
        say "$*"
        exit 1
    fi
    say "$* -- shutting down"
    shutdown -h now || poweroff || true
    exit 1
}

# with_retries WHAT COMMAND...: run the command until it succeeds, with growing pauses.
with_retries() {
    local what=$1 wait=$delay number
    shift
    for ((number = 1; number <= tries; number++)); do
        if "$@"; then
            return 0
        fi
        say "$what failed (try $number of $tries)"
        if ((number < tries)); then
            sleep "$wait"
            wait=$((wait * 2 > 30 ? 30 : wait * 2))
        fi
    done
    return 1
}

# The agent needs Python 3.10 or newer; AL2023's python3 is 3.9.
pick_python() {
    local name path fits='import platform, sys
problem = "is too old" if sys.version_info < (3, 10) else ""
try:
    import venv
except ImportError as exc:
    problem = problem or "lacks what it needs: %s" % exc
print("Python %s %s" % (platform.python_version(), problem) if problem else sys.executable)
sys.exit(bool(problem))'
    unfit=''
    for name in python3.14 python3.13 python3.12 python3.11 python3.10 python3; do
        path=$(command -v "$name") || continue
        python=$("$path" -I -c "$fits" 2>/dev/null) && return 0
        unfit="$unfit; $path: ${python:-does not run}"
    done
    return 1
}

metadata() {
    curl -fsS --noproxy '*' --connect-timeout 2 --max-time 5 "$@"
}

# Prints the role's credentials as JSON; they never appear on a command line.
read_credentials() {
    local token role
    token=$(metadata -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 300' \
        "$imds/latest/api/token") || return 1
    role=$(metadata -H "X-aws-ec2-metadata-token: $token" \
        "$imds/latest/meta-data/iam/security-credentials/") || return 1
    metadata -H "X-aws-ec2-metadata-token: $token" \
        "$imds/latest/meta-data/iam/security-credentials/${role%%$'\n'*}"
}

# Prints the headers of a signed GET (SigV4) as curl's configuration. Before 7.86, curl itself does
# not sign x-amz-security-token, which S3 refuses.
sign_get() {
    "$python" -I -c 'import hashlib, hmac, json, sys, time
from urllib.parse import urlsplit
url, region = urlsplit(sys.argv[1]), sys.argv[2]
held = json.load(sys.stdin)
sha256 = lambda text: hashlib.sha256(text.encode()).hexdigest()
now = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
scope = "%s/%s/s3/aws4_request" % (now[:8], region)
headers = {"host": url.netloc, "x-amz-content-sha256": sha256(""), "x-amz-date": now,
           "x-amz-security-token": held["Token"]}
names = ";".join(headers)
lines = ["%s:%s" % header for header in headers.items()]
request = "\n".join(["GET", url.path, "", *lines, "", names, sha256("")])
key = ("AWS4" + held["SecretAccessKey"]).encode()
for text in [*scope.split("/"), "\n".join(["AWS4-HMAC-SHA256", now, scope, sha256(request)])]:
    key = hmac.digest(key, text.encode(), "sha256")
headers["authorization"] = "AWS4-HMAC-SHA256 Credential=%s/%s, SignedHeaders=%s, Signature=%s" % (
    held["AccessKeyId"], scope, names, key.hex())
for header in headers.items():
    print("header = \"%s: %s\"" % header)' "$1" "$RUNCTL_REGION" 2>/dev/null
}

object_url() {
    local path=${RUNCTL_AGENT_URI#s3://} suffix=amazonaws.com
    local bucket=${path%%/*} key=${path#*/}
    case $RUNCTL_REGION in cn-*) suffix=amazonaws.com.cn ;; esac
    if [ -n "${AWS_ENDPOINT_URL:-}" ]; then
        printf '%s/%s/%s' "${AWS_ENDPOINT_URL%/}" "$bucket" "$key"
    elif [[ $bucket == *.* ]]; then # TLS certificates do not cover such a host name
        printf 'https://s3.%s.%s/%s/%s' "$RUNCTL_REGION" "$suffix" "$bucket" "$key"
    else
        printf 'https://%s.s3.%s.%s/%s' "$bucket" "$RUNCTL_REGION" "$suffix" "$key"
    fi
}

fetch_agent() {
    local url signed
    url=$(object_url)
    signed=$(read_credentials | sign_get "$url") || {
        say 'the instance role has no credentials yet'
        return 1
    }
    curl -fsS --config - --connect-timeout 5 --max-time "${RUNCTL_BOOT_TIMEOUT:-120}" \
        -o "$archive" "$url" <<<"$signed" || return 1
    if ! sha256sum --check --status <<<"$RUNCTL_AGENT_SHA256  $archive"; then
        say 'the SHA-256 of the agent archive differs from the one in the launch template'
        return 1
    fi
}

install_agent() {
    pick_python || give_up "this image has no Python 3.10 or newer with venv$unfit"
    archive=$root/opt/runctl/agent.tar.gz
    # A command may arrive while the user data is still running.
    exec 9>"$root/etc/runctl/bootstrap.lock"
    flock -w 600 9 || give_up 'another bootstrap holds the lock'
    if [ "$(cat "$root/opt/runctl/agent/sha256" 2>/dev/null)" != "$RUNCTL_AGENT_SHA256" ]; then
        with_retries "downloading $RUNCTL_AGENT_URI" fetch_agent ||
            give_up "the agent could not be downloaded from $RUNCTL_AGENT_URI$(lack_of_space)"
        unpack_agent
    fi
    make_user
    confine_user
    write_settings
    write_launcher
    keep_services
}

# Prints that the disk is full, if it is: programs say so in many ways, or not at all.
lack_of_space() {
    local left=''
    { read -r _ && read -r _ _ _ left _; } < <(df -Pm "$root/opt" 2>/dev/null) || true
    [ "${left:-50}" -ge 50 ] || printf ': the disk has only %s MiB left' "$left"
}

# Atomic: an interruption leaves no partially unpacked agent.
unpack_agent() {
    local fresh=$root/opt/runctl/agent.new.$$
    rm -rf "$root"/opt/runctl/agent.new.*
    mkdir -p "$fresh"
    tar -xzf "$archive" -C "$fresh" --no-same-owner
    printf '%s\n' "$RUNCTL_AGENT_SHA256" >"$fresh/sha256"
    rm -rf "$root/opt/runctl/agent.old"
    [ ! -e "$root/opt/runctl/agent" ] || mv "$root/opt/runctl/agent" "$root/opt/runctl/agent.old"
    mv "$fresh" "$root/opt/runctl/agent"
    rm -rf "$root/opt/runctl/agent.old" "$archive"
}

write_file() {
    local path=$1 mode=$2
    cat >"$path.new"
    chmod "$mode" "$path.new"
    mv "$path.new" "$path"
}

# Programs and the builds of packages run as this user. Its number is the same everywhere, as shared
# file systems want it, and above those that containers of others use. Without it the agent starts
# only programs that request root.
make_user() {
    local name=runctl-trainer group problem id=58113
    user=''
    if [ -n "$root" ]; then
        # Instances of the local cloud have it from their first moment, or cannot have it.
        user=${RUNCTL_TRAINER_USER:-}
        return 0
    fi
    ! getent passwd "$id" >/dev/null || id=''
    if ! problem=$(getent passwd "$name" || useradd --system ${id:+--uid "$id"} --user-group \
        --no-create-home --home-dir /var/lib/runctl/home --shell /usr/sbin/nologin "$name" 2>&1) ||
        [ "$(id -u "$name")" -eq 0 ]; then
        say "the user $name could not be created: $problem"
        return 0
    fi
    user=$name
    for group in video render; do # GPUs
        ! getent group "$group" >/dev/null || usermod --append --groups "$group" "$name" || true
    done
}

# Polkit lets every user have a manager that starts at each boot. It would run programs outside of
# the slice, setuid programs among them, and again after the user's run has ended.
confine_user() {
    local rules=$root/etc/polkit-1/rules.d name
    [ -n "$user" ] || return 0
    for name in user user-runtime-dir; do
        ln -sfn /dev/null "$units/$name@$(id -u "$user").service"
    done
    [ -d "$rules" ] || return 0
    write_file "$rules/10-runctl.rules" 0644 <<EOF
polkit.addRule(function(action, subject) {
    return subject.user == "$user" ? polkit.Result.NO : polkit.Result.NOT_HANDLED;
});
EOF
}

# Buffers of 8 MiB are returned to the system at once, instead of growing glibc's heaps.
write_settings() {
    {
        printf '%s=%s\n' RUNCTL_ROOT "$root" RUNCTL_TABLE "$RUNCTL_TABLE" \
            RUNCTL_BUCKET "$RUNCTL_BUCKET" RUNCTL_LOG_GROUP "$RUNCTL_LOG_GROUP" \
            RUNCTL_REGION "$RUNCTL_REGION" AWS_DEFAULT_REGION "$RUNCTL_REGION" \
            AWS_REQUEST_CHECKSUM_CALCULATION when_required \
            AWS_RESPONSE_CHECKSUM_VALIDATION when_required \
            MALLOC_ARENA_MAX 2 MALLOC_MMAP_THRESHOLD_ 1048576 \
            RUNCTL_CREDENTIALS_FUNCTION "$RUNCTL_CREDENTIALS_FUNCTION" \
            RUNCTL_DEPLOYMENT "$RUNCTL_DEPLOYMENT" RUNCTL_TRAINER_USER "$user"
        [ "$action" != start ] ||
            printf '%s=%s\n' RUNCTL_RUN_ID "${RUNCTL_RUN_ID:-}" \
                RUNCTL_ATTEMPT "${RUNCTL_ATTEMPT:-}"
        [ -z "${AWS_ENDPOINT_URL:-}" ] || printf 'AWS_ENDPOINT_URL=%s\n' "$AWS_ENDPOINT_URL"
        [ -z "${AWS_EC2_METADATA_SERVICE_ENDPOINT:-}" ] ||
            printf 'AWS_EC2_METADATA_SERVICE_ENDPOINT=%s\n' "$imds"
    } | write_file "$root/etc/runctl/agent.env" 0644
}

write_launcher() {
    write_file "$root/opt/runctl/bin/runctl-agent" 0755 <<EOF
#!/bin/sh
set -a
. "$root/etc/runctl/agent.env"
set +a
exec "$python" -I -c 'import sys
sys.path[:0] = ["$root/opt/runctl/agent", "$root/opt/runctl/agent/vendor"]
from runctl.agent.__main__ import main
sys.exit(main())' "\$@"
EOF
}

# The dead-man timer is a shell script, so that a broken Python or agent cannot disarm it. It counts
# the time since boot, which no NTP step moves, and only detects that the lease was touched. It stores
# instants as file times, which need no space on a full disk.
write_deadman() {
    write_file "$root/opt/runctl/bin/runctl-deadman" 0755 <<EOF
#!/bin/sh
# Shuts the instance down when no heartbeat was accepted for 30 minutes.
run="$root/run/runctl"
limit=\${RUNCTL_DEADMAN_SECONDS:-1800}
first_hour=\${RUNCTL_FIRST_HOUR_SECONDS:-3600}
now=\$(cut -d. -f1 "\${RUNCTL_UPTIME_FILE:-/proc/uptime}")
# A reboot empties /run, and user data runs at the first boot only: count from now.
mkdir -p "\$run"
[ -e "\$run/lease" ] || touch "\$run/lease"
[ -e "\$run/born" ] || touch -d "@\$now" "\$run/born"
if [ ! -e "\$run/seen" ] || [ "\$run/lease" -nt "\$run/seen" ] ||
    [ "\$run/lease" -ot "\$run/seen" ]; then
    touch -d "@\$now" "\$run/heard"
    touch -r "\$run/lease" "\$run/seen"
fi
since() { echo \$((now - \$(stat -c %Y "\$1" 2>/dev/null || echo "\$now"))); }
[ "\$(since "\$run/heard")" -ge "\$limit" ] || exit 0
# A person requested this machine until then; only this depends on the clock.
keep=\$(cat "$root/etc/runctl/keep-until" 2>/dev/null || echo 0)
[ "\$(date +%s)" -ge "\$keep" ] || exit 0
# After a notice in the first hour EC2 takes the instance, and charges nothing if we wait.
if [ -e "\$run/notice" ] && [ "\$(since "\$run/born")" -lt "\$first_hour" ]; then exit 0; fi
echo "runctl: no heartbeat was accepted for \$limit s: shutting down" >&2
# A command that hangs must not keep the instance alive.
timeout -k 5 30 "$root/opt/runctl/bin/runctl-agent" stop || true
waited=0
while [ "\$waited" -lt "\${RUNCTL_FLUSH_SECONDS:-120}" ] &&
    timeout 10 systemctl is-active --quiet runctl-agent.service; do
    sleep 1
    waited=\$((waited + 1))
done
timeout 60 sync || true
shutdown -h now || poweroff || poweroff -f
EOF
    write_file "$units/runctl-deadman.service" 0644 <<EOF
[Unit]
Description=Shut down an instance without heartbeats
[Service]
Type=oneshot
EnvironmentFile=-$root/etc/runctl/deadman.env
ExecStart=$root/opt/runctl/bin/runctl-deadman
EOF
    write_file "$units/runctl-deadman.timer" 0644 <<EOF
[Unit]
Description=Check the last accepted heartbeat
[Timer]
OnActiveSec=60
OnUnitInactiveSec=60
AccuracySec=1s
[Install]
WantedBy=timers.target
EOF
}

write_agent_units() {
    write_file "$units/runctl-agent.service" 0644 <<EOF
[Unit]
Description=The runctl agent
# Units stop in the reverse of this order: in a shutdown the agent saves before the engine, which
# would end its containers, is stopped.
After=network-online.target runctl-fence.service docker.service
Wants=network-online.target runctl-fence.service
StartLimitIntervalSec=0
[Service]
Type=simple
EnvironmentFile=$root/etc/runctl/agent.env
ExecStart=$root/opt/runctl/bin/runctl-agent run
Restart=on-failure
RestartSec=2
KillMode=mixed
TimeoutStopSec=100
OOMScoreAdjust=-500
[Install]
WantedBy=multi-user.target
EOF
}

# needrestart would restart the services after a library upgrade, which ends the attempt.
keep_services() {
    [ -d "$root/etc/needrestart" ] || return 0
    mkdir -p "$root/etc/needrestart/conf.d"
    write_file "$root/etc/needrestart/conf.d/runctl.conf" 0644 <<'EOF'
# A restart of these services ends their work; they use new libraries after the next boot.
$nrconf{override_rc}->{qr(^runctl-)} = 0;
EOF
}

# Minimal images and AL2023 lack nft. Without access to a repository, the fence reports that.
install_nft() {
    ! command -v nft >/dev/null || return 0
    say 'installing nftables'
    if command -v apt-get >/dev/null; then
        export DEBIAN_FRONTEND=noninteractive
        timeout 120 apt-get -qq update
        timeout 180 apt-get -qq -o DPkg::Lock::Timeout=60 install -y --no-install-recommends nftables
    else
        timeout 180 dnf -q -y install nftables
    fi >/dev/null || say 'nftables could not be installed'
}

# The trainer gets no credentials of the instance role: neither its cgroup nor its user can reach the
# metadata service. User data runs only at the first boot, so a unit loads the rules at every boot; the agent
# starts no trainer unless the unit reports them as loaded.
fence_trainer() {
    local problem where rules=''
    for where in 'socket cgroupv2 level 2 "runctl.slice/runctl-trainer.slice"' \
        ${user:+"meta skuid $(id -u "$user")"}; do
        rules+="
        $where ip daddr 169.254.169.254 reject
        $where ip6 daddr fd00:ec2::254 reject"
    done
    write_file "$root/etc/runctl/fence.nft" 0644 <<EOF
table inet runctl
delete table inet runctl
table inet runctl {
    chain output {
        type filter hook output priority filter; policy accept;$rules
    }
}
EOF
    write_file "$root/opt/runctl/bin/runctl-fence" 0755 <<EOF
#!/bin/sh
# Reports \`loaded\` or the problem in a file that a reboot removes.
state="$root/run/runctl/fence"
mkdir -p "\${state%/*}"
for pause in 1 2 0; do
    said=\$(nft -f "$root/etc/runctl/fence.nft" 2>&1) && said=loaded && break
    command -v nft >/dev/null || { said='nft is not installed (package nftables)' && break; }
    [ -e /sys/fs/cgroup/cgroup.controllers ] || said="the system has no cgroup v2: \$said"
    sleep \$pause
done
printf '%s\n' "\$said" | head -n 1 >"\$state.new"
mv "\$state.new" "\$state"
[ "\$said" = loaded ]
EOF
    write_file "$units/runctl-trainer.slice" 0644 <<EOF
[Unit]
Description=The processes of the trainer
EOF
    # The rules name the cgroup, which must exist; the other services flush all rules when they start.
    write_file "$units/runctl-fence.service" 0644 <<EOF
[Unit]
Description=Keep the trainer away from the metadata service
Requires=runctl-trainer.slice
After=runctl-trainer.slice nftables.service firewalld.service ufw.service
Before=runctl-agent.service
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=$root/opt/runctl/bin/runctl-fence
EOF
    systemctl daemon-reload
    if ! systemctl restart runctl-fence.service 2>/dev/null; then
        problem="no trainer can start, since the metadata fence failed: \
$(cat "$root/run/runctl/fence" 2>/dev/null || echo 'see journalctl -u runctl-fence')"
        # On a machine of a run the agent reports it.
        [ -z "$action" ] || give_up "$problem"
        say "$problem"
    fi
}

# Prints until when a person wants this machine without a run, from its tag, in seconds.
kept_until() {
    local token
    token=$(metadata -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 300' \
        "$imds/latest/api/token") || return 1
    # A machine of a run has no such tag, and the response is 404.
    date -d "$(metadata -H "X-aws-ec2-metadata-token: $token" \
        "$imds/latest/meta-data/tags/instance/runctl:keep-alive-until" 2>/dev/null ||
        echo '@0')" +%s
}

keep_alive() {
    kept=$(kept_until) && printf '%s\n' "$kept" | write_file "$root/etc/runctl/keep-until" 0644
}

start_agent() {
    write_agent_units
    systemctl daemon-reload
    systemctl enable runctl-agent.service || true
    systemctl restart runctl-agent.service || give_up 'the agent did not start'
    say "the agent is running with $python"
}

prepare() {
    local name
    mkdir -p "$root"/opt/runctl/bin "$root"/etc/runctl "$root"/run/runctl \
        "$root"/var/lib/runctl "$units"
    for name in RUNCTL_AGENT_URI RUNCTL_AGENT_SHA256 RUNCTL_TABLE RUNCTL_BUCKET \
        RUNCTL_LOG_GROUP RUNCTL_REGION RUNCTL_DEPLOYMENT RUNCTL_CREDENTIALS_FUNCTION; do
        [ -n "${!name:-}" ] || give_up "the user data's header lacks $name"
    done
}

main() {
    touch "$root/run/runctl/lease"
    write_deadman
    "$root/opt/runctl/bin/runctl-deadman" || say 'the dead-man timer failed'
    systemctl daemon-reload
    systemctl enable --now runctl-deadman.timer || say 'the dead-man timer did not start'
    # No upgrade in the middle of a run; the next machine has a newer image.
    systemctl disable --now apt-daily.timer apt-daily-upgrade.timer 2>/dev/null || true
    install_agent
    with_retries 'reading the metadata' keep_alive || give_up 'the metadata service does not respond'
    if [ "$kept" -gt 0 ]; then
        say "waiting for a run, at most until $(date -u -d "@$kept" +%FT%TZ)"
        return
    fi
    install_nft
    fence_trainer
    start_agent
}

gave_up='' status=0 kept=0 user=''
trap 'status=$?; [ "$status" -eq 0 ] || [ -n "$gave_up" ] || give_up "the script failed ($status)$(lack_of_space)"' EXIT
prepare
[ -n "$action" ] || main
