# What takes rights that a function has not, by the programs that are there: says which of them went through.
handler() {
    local command
    while read -r command; do
        timeout 2 $command >/dev/null 2>&1 </dev/null && echo "\"$command\""
    done <<'COMMANDS' | paste -sd, | sed 's/^/[/; s/$/]/' | grep . || echo '[]'
mount -t tmpfs none /tmp
mount --bind / /tmp
umount -l /tmp
unshare -m true
unshare -p true
unshare -n true
unshare -C true
unshare -Ur true
nsenter -t 1 -m true
chroot /tmp /bin/true
mknod /tmp/disk b 254 0
mknod /tmp/memory c 1 1
ping -c 1 -W 1 127.0.0.1
su -c true
setpriv --reuid 0 true
renice -20 -p 1
dmesg
hostname mine
sysctl -w kernel.hostname=mine
date -s 2000-01-01
losetup -f
swapoff -a
COMMANDS
}
