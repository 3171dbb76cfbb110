# Looks for what is not its own: files, other processes, the kernel's. Says what it found and could write.
handler() {
    local word paths path number
    word=$(sed 's/.*"word":"\([^"]*\)".*/\1/' <<<"$1")
    paths=$(sed 's/.*"paths":\[\([^]]*\)\].*/\1/; s/[",]/ /g' <<<"$1")
    {
        grep -rIls "$word" /var /opt /etc /dev/shm /home /root /run /srv /mnt /media /boot /data /tmp
        for number in /proc/[0-9]*; do
            grep -Fls "$word" "$number/environ" "$number/mountinfo"
            [ "${number#/proc/}" = "$$" ] || [ "${number#/proc/}" = "$BASHPID" ] || ls -d "$number"/root/home 2>/dev/null
        done
        for path in $paths; do ls -d "$path"; done
        for path in /sys/kernel /sys/fs/cgroup; do ls -A "$path"; done
        for path in /proc/kcore /proc/kmsg /dev/mem /dev/kmsg /dev/vda /etc/shadow; do head -c 1 "$path" | grep -q . && echo "$path"; done
        for path in /mine /var/mine /var/task/mine /var/runtime/mine /opt/mine /etc/mine /dev/mine /usr/mine /etc/passwd \
            /var/task/snoop.sh /proc/sys/kernel/hostname /proc/sysrq-trigger; do
            { : >>"$path"; } && echo "can write $path"
        done
    } 2>/dev/null | sed 's/.*/"&"/' | paste -sd, | sed 's/^/[/; s/$/]/' | grep . || echo '[]'
}
