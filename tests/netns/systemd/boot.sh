#!/bin/sh
# Boots systemd in the network namespace that this runs in, on a view of the
# machine in which all that it writes is its own:
#     boot.sh CGROUP FOLDER PROGRAM UNIT..
# CGROUP is an empty cgroup for it, FOLDER is there as /run/test, the PROGRAM is
# installed, each UNIT enabled (or none). /run/test/etc may hold files for /etc.
set -eu

folder=$2
case $0 in
    */init) ;;
    *)
        echo $$ >"$1/cgroup.procs"
        cp "$0" "$folder/init"
        exec unshare --fork --kill-child --pid --mount --mount-proc --uts --ipc --cgroup \
            "$folder/init" "$@"
        ;;
esac
program=$3
shift 3

mount --make-rprivate /
umount -R -l /run 2>/dev/null || true
mount -t tmpfs run /run
mkdir -p /run/etc /run/lock /run/test /run/source /run/units
cp -a /etc/. /run/etc
mount --bind "$folder" /run/test
# The folder that it lies in may be about to be hidden.
mount --bind "$PWD" /run/source
cp "$program" /run/dtun
mount --bind /run/etc /etc
for own in /tmp /usr/local /var /etc/systemd; do
    mount -t tmpfs own "$own"
done
mkdir -p /var/lib /var/tmp /var/log /etc/systemd/system
ln -s /run /var/run
umount -R -l /sys/fs/cgroup
mount -t cgroup2 cgroup /sys/fs/cgroup
# As a machine's own process 1 has it, who passes credentials on by it.
mount --make-rshared /
hostname test

cd /run/source
scripts/install.sh -binary /run/dtun
rm /run/dtun
cp -r /run/test/etc/. /etc
chmod 600 /etc/dtun/*

# None of the distribution's services, which would be at the machine's devices.
for unit in basic multi-user network network-online network-pre paths shutdown \
    slices sockets sysinit timers umount local-fs local-fs-pre; do
    cp "/usr/lib/systemd/system/$unit.target" /run/units
done
mkdir /run/units/service.d
cat >/run/units/service.d/log.conf <<'LOG'
[Service]
StandardOutput=append:/run/test/log
StandardError=inherit
LOG
cat >/run/units/network-up.service <<'UP'
[Unit]
DefaultDependencies=no
After=network-pre.target
Before=network.target
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'nft list ruleset >/run/test/before-network'
UP
mkdir /run/units/network-online.target.wants
ln -s ../network-up.service /run/units/network-online.target.wants

export SYSTEMD_UNIT_PATH=/run/units:/etc/systemd/system:/usr/local/lib/systemd/system
[ $# = 0 ] || systemctl enable --quiet "$@"
export container=dtun
exec /usr/lib/systemd/systemd --unit=multi-user.target --log-target=console --show-status=no
