# Follows bootstrap.sh in the command to an existing instance, which it never shuts down: the
# instance gets no dead-man timer.
#
#   RUNCTL_ACTION=check: download the agent, and list the permissions that the instance's role lacks
#   RUNCTL_ACTION=start RUNCTL_RUN_ID RUNCTL_ATTEMPT: start it for that attempt, if the role permits
#   RUNCTL_ACTION=monitor MONITOR_URI MONITOR_PID MONITOR_DIR MONITOR_SIGTERM: monitor a process that
#     runctl did not start
#   RUNCTL_ACTION=unmonitor: stop the monitor
#
# shellcheck shell=bash disable=SC2154

# An agent without permissions could report nothing. A new policy takes some seconds to take effect.
check_role() {
    with_retries 'checking the permissions of the role' "$root/opt/runctl/bin/runctl-agent" check ||
        give_up 'the instance cannot run an attempt'
}

# Leftovers of an earlier attempt on this machine must not reach the next one.
take_over() {
    local assignment=$root/etc/runctl/assignment
    case $RUNCTL_RUN_ID in '' | *[!A-Za-z0-9_-]*) give_up "RUNCTL_RUN_ID: '$RUNCTL_RUN_ID' is not a valid run id" ;; esac
    if [ "$(cat "$assignment" 2>/dev/null)" = "$RUNCTL_RUN_ID $RUNCTL_ATTEMPT" ]; then
        if [ -e "$root/run/runctl/reported" ] ||
            systemctl is-active --quiet runctl-agent.service; then
            say "the agent already works on attempt $RUNCTL_ATTEMPT of $RUNCTL_RUN_ID"
            exit 0
        fi
    else
        check_role
        systemctl stop runctl-agent.service || true
        rm -rf "$root"/run/runctl/requests "$root"/run/runctl/reported \
            "$root"/run/runctl/failures "$root"/run/runctl/saved.jsonl \
            "$root"/run/runctl/checkpoint-request
        find "$root/var/lib/runctl" -mindepth 1 -maxdepth 1 ! -name environments \
            -exec rm -rf {} +
    fi
    printf '%s %s\n' "$RUNCTL_RUN_ID" "$RUNCTL_ATTEMPT" | write_file "$assignment" 0644
}

write_monitor_unit() {
    write_file "$units/runctl-monitor.service" 0644 <<EOF
[Unit]
Description=Checkpoints of a training process that runctl did not start
After=network-online.target
[Service]
Type=simple
EnvironmentFile=$root/etc/runctl/agent.env
EnvironmentFile=$root/etc/runctl/monitor.env
ExecStart=$root/opt/runctl/bin/runctl-agent monitor
Restart=on-failure
RestartSec=2
TimeoutStopSec=100
OOMScoreAdjust=-500
EOF
}

obey() {
    local wanted=$root/etc/runctl/monitor.env
    case $action in
    check)
        install_agent
        fence_trainer
        "$root/opt/runctl/bin/runctl-agent" check || give_up 'the instance cannot run an attempt'
        ;;
    start)
        touch "$root/run/runctl/lease"
        install_agent
        fence_trainer
        take_over
        start_agent
        ;;
    monitor)
        install_agent
        "$root/opt/runctl/bin/runctl-agent" find-trainer | write_file "$wanted" 0600 ||
            give_up 'no process to monitor was found'
        write_monitor_unit
        systemctl daemon-reload
        systemctl restart runctl-monitor.service || give_up 'the monitor did not start'
        cat "$wanted"
        ;;
    unmonitor)
        systemctl stop runctl-monitor.service || say 'no monitor was running'
        ;;
    *) give_up "RUNCTL_ACTION: '$action' is not a valid action" ;;
    esac
}

obey
