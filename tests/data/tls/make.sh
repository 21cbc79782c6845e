#!/bin/sh
# Makes the certificates of the TLS tests anew: one authority, a server at 127.0.0.1 and localhost, an expired one, and
# two clients. They protect nothing; the keys are here on purpose.
set -eu
cd "$(dirname "$0")"
key() { openssl genpkey -quiet -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1.key"; }
sign() { # name, subject, extensions, start, end
    key "$1"
    openssl req -new -key "$1.key" -subj "$2" -out "$1.csr"
    printf '[ca]\ndefault_ca=c\n[c]\ndatabase=index\nserial=serial\nnew_certs_dir=.\ndefault_md=sha256\npolicy=p\n' >c.cnf
    printf '[p]\ncommonName=supplied\n[x]\n%s\n' "$3" >>c.cnf
    : >index
    openssl ca -batch -notext -config c.cnf -extensions x -cert ca.pem -keyfile ca.key -rand_serial \
        -startdate "$4" -enddate "$5" -in "$1.csr" -out "$1.pem"
    rm -f "$1.csr" c.cnf index* serial* ./*[0-9A-F][0-9A-F][0-9A-F][0-9A-F].pem
}
from=20200101000000Z until=21200101000000Z
key ca
openssl req -x509 -key ca.key -subj "/CN=edgepush test authority" -days 36500 \
    -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign -out ca.pem
names='subjectAltName=IP:127.0.0.1,DNS:localhost'
sign server "/CN=origin" "$names" $from $until
sign expired "/CN=origin" "$names" $from 20210101000000Z
sign client1 "/CN=node-1" "extendedKeyUsage=clientAuth" $from $until
sign client2 "/CN=node-2" "extendedKeyUsage=clientAuth" $from $until
rm -f ca.key
