#!/usr/bin/env python3
"""Hostile and odd archives for edgepush, each with the right result.

Usage: make_hostile.py OUTDIR     writes OUTDIR/<case>.tar.gz|.zip and OUTDIR/MANIFEST.json.
Python 3 standard library only; every byte is built here, so the output is the same on every machine and run
(no compressor is called: deflate streams are made by hand; zlib is used for crc32 only).

What a case says (MANIFEST.json, "cases"):
  expect  accept  extract exactly "tree"; anything else is a failure
          reject  fail, leave no version directory behind, name the offending entry; "kinds" lists the reasons that fit
          either  do one of the two: exactly "tree", or a clean rejection (never a third result)
  limits  overrides of "default_limits" that the case runs under
  tree    path (path_hex when not UTF-8), type, mode under umask 022, size, sha256, symlink target, hardlink_to
          (a hard link may be made as a link or as a copy)
Paths under /tmp/edgepush-canary (file "file", directory "dir" with "file", both private) and "outside.txt" next to the
extraction directory are bait: a test makes them beforehand and afterwards finds them, and only them, unchanged."""
import sys, os, json, struct, zlib, hashlib
CAN = b'/tmp/edgepush-canary'
DEFAULT_LIMITS = dict(max_entries=10000, max_total_bytes=64 << 20, max_file_bytes=32 << 20, max_path_bytes=4096,
                      max_component_bytes=255, max_depth=64, max_ratio=250, ratio_floor_bytes=16 << 20, max_meta_bytes=1 << 20)
MIB = 1 << 20
# ------------------------------------------------------------------ deflate and gzip by hand
class Bits:
    def __init__(s): s.o = bytearray(); s.b = 0; s.n = 0
    def put(s, v, n):
        s.b |= v << s.n; s.n += n
        while s.n >= 8: s.o.append(s.b & 255); s.b >>= 8; s.n -= 8
    def huff(s, v, n): s.put(int(format(v, '0%db' % n)[::-1], 2), n)
    def lit(s, c): s.huff(0x30 + c, 8) if c < 144 else s.huff(0x190 + c - 144, 9)
    def done(s):
        if s.n: s.o.append(s.b & 255); s.b = s.n = 0
        return bytes(s.o)
def deflate(data=b'', run=None):
    """one final fixed-Huffman block: literals of data, then run=(byte, count) as length-258 matches"""
    w = Bits(); w.put(1, 1); w.put(1, 2)
    for c in data: w.lit(c)
    if run:
        c, n = run; w.lit(c); n -= 1
        while n >= 258: w.huff(0xC0 + 285 - 280, 8); w.huff(0, 5); n -= 258
        for _ in range(n): w.lit(c)
    w.huff(0, 7); return w.done()
def stored(data, final=True):
    o = b''; ch = [data[i:i + 65535] for i in range(0, len(data), 65535)] or [b'']
    for i, c in enumerate(ch): o += bytes([int(final and i == len(ch) - 1)]) + struct.pack('<HH', len(c), len(c) ^ 0xffff) + c
    return o
def crc_run(c, n, start=0):
    z = start; blk = bytes([c]) * 65536
    while n >= 65536: z = zlib.crc32(blk, z); n -= 65536
    return zlib.crc32(bytes([c]) * n, z)
def gz(data, flags=0, extra=b'', name=b'', comment=b'', hcrc=False, body=None, crc=None, isize=None, cm=8):
    h = b'\x1f\x8b' + bytes([cm, flags | (4 if extra else 0) | (8 if name else 0) | (16 if comment else 0) | (2 if hcrc else 0)]) + b'\0\0\0\0\0\x03'
    if extra: h += struct.pack('<H', len(extra)) + extra
    if name: h += name + b'\0'
    if comment: h += comment + b'\0'
    if hcrc: h += struct.pack('<H', (zlib.crc32(h) & 0xffff) ^ (0 if hcrc is True else 1))
    return h + (stored(data) if body is None else body) + struct.pack('<II', zlib.crc32(data) if crc is None else crc, len(data) if isize is None else isize)
# ------------------------------------------------------------------ tar by hand
def octal(v, n): return b'%0*o\0' % (n - 1, v)
def b256(v, n): return (v & ((1 << (8 * n)) - 1) | (0x80 << (8 * (n - 1)) if v >= 0 else 0)).to_bytes(n, 'big')
def hdr(name, size=0, ty=b'0', mode=0o644, link=b'', magic=b'ustar\x0000', prefix=b'', uid=0, gid=0, mtime=1700000000,
        sizef=None, modef=None, uidf=None, uname=b'', gname=b'', tail=b'', cks=None, patch=()):
    h = bytearray(512)
    def at(o, v): h[o:o + len(v)] = v
    at(0, name[:100]); at(100, octal(mode, 8) if modef is None else modef); at(108, octal(uid, 8) if uidf is None else uidf)
    at(116, octal(gid, 8)); at(124, octal(size, 12) if sizef is None else sizef); at(136, octal(mtime, 12)); at(156, ty); at(157, link[:100])
    at(257, magic); at(265, uname); at(297, gname); at(345, prefix[:155]); at(500, tail)
    for o, v in patch: at(o, v)
    at(148, b' ' * 8)
    s = sum(h) if cks is None else cks(h) if callable(cks) else cks
    at(148, b'%06o\0 ' % s)
    return bytes(h)
def pad(d): return d + b'\0' * (-len(d) % 512)
def ent(name, data=b'', ty=b'0', **k):
    k.setdefault('size', len(data) if ty in (b'0', b'\0', b'7', b'S', b'L', b'K', b'x', b'g', b'X') else 0)
    return hdr(name, ty=ty, **k) + pad(data)
def fdir(name, mode=0o755, **k): return ent(name, ty=b'5', mode=mode, **k)
def sym(name, target, **k): return ent(name, ty=b'2', link=target, mode=0o777, **k)
def hard(name, target, **k): return ent(name, ty=b'1', link=target, **k)
GNU = b'ustar  \0'
V7 = b'\0' * 8
def rec(k, v):
    body = b' ' + k + b'=' + v + b'\n'; n = len(body)
    while True:
        s = b'%d' % n
        if len(s) + len(body) == n: return s + body
        n = len(s) + len(body)
def pax(*kv, ty=b'x', name=b'PaxHeaders/x', raw=None, **k):
    return ent(name, b''.join(rec(a, b) for a, b in kv) if raw is None else raw, ty=ty, **k)
def longname(n, ty=b'L', nul=b'\0', **k): return ent(b'././@LongLink', n + nul, ty=ty, magic=GNU, mode=0, **k)
END = b'\0' * 1024
# ------------------------------------------------------------------ zip by hand
class Zip:
    """m: an entry; every field of the local header and of the directory record can be told apart"""
    def __init__(s): s.b = bytearray(); s.cd = []; s.n = 0
    def add(s, name, data=b'', method=0, mode=0o100644, host=3, flags=0, comp=None, crc=None, size=None, csize=None, extra=b'', lextra=None,
            cextra=None, lname=None, lmethod=None, lcrc=None, lsize=None, lcsize=None, lflags=None, desc=None, ext=None, list_it=True,
            cd=None, need=20, offset=None, local=True, disk=0):
        comp = (data if method == 0 else deflate(data)) if comp is None else comp
        crc = zlib.crc32(data) if crc is None else crc; size = len(data) if size is None else size; csize = len(comp) if csize is None else csize
        o = len(s.b); dd = flags & 8
        lz = lambda v, d: d if v is None else v
        if local:
            ln = lz(lname, name); lx = lz(lextra, extra)
            s.b += b'PK\3\4' + struct.pack('<HHHHHIIIHH', need, lz(lflags, flags), lz(lmethod, method), 0, 0x5821, lz(lcrc, 0 if dd else crc),
                                           lz(lcsize, 0 if dd else csize), lz(lsize, 0 if dd else size), len(ln), len(lx)) + ln + lx + comp
            if dd: s.b += (b'PK\7\x08' + struct.pack('<III', crc, csize, size)) if desc is None else desc
        if list_it:
            cx = lz(cextra, extra); c = dict(crc=crc, csize=csize, size=size, method=method); c.update(cd or {})
            s.cd.append(b'PK\1\2' + struct.pack('<HHHHHHIIIHHHHHII', host << 8 | 20, need, flags, c['method'], 0, 0x5821, c['crc'], c['csize'], c['size'],
                        len(name), len(cx), 0, disk, 0, (mode << 16 if host == 3 else 0) | (16 if name[-1:] == b'/' else 0) if ext is None else ext, o if offset is None else offset) + name + cx)
            s.n += 1
        return s
    def end(s, comment=b'', count=None, cdoff=None, cdsize=None, disk=0, z64=None, clen=None, before=b'', after=b''):
        o = len(s.b); cd = b''.join(s.cd); out = bytes(s.b) + cd + before
        n = s.n if count is None else count; off = o if cdoff is None else cdoff; sz = len(cd) if cdsize is None else cdsize
        if z64 is not None:
            k = dict(n=n, sz=sz, off=off, loc=len(out), e32=(0xffff, 0xffffffff, 0xffffffff), disks=1); k.update(z64)
            out += b'PK\6\6' + struct.pack('<QHHIIQQQQ', 44, 45, 45, 0, 0, k['n'], k['n'], k['sz'], k['off'])
            out += b'PK\6\7' + struct.pack('<IQI', 0, k['loc'], k['disks'])
            n, sz, off = k['e32']
        return out + b'PK\5\6' + struct.pack('<HHHHIIH', disk, disk, n, n, sz, off, len(comment) if clen is None else clen) + comment + after
def z64x(*v): return struct.pack('<HH', 1, 8 * len(v)) + b''.join(struct.pack('<Q', x) for x in v)
def upath(raw, uni, crc=None): return struct.pack('<HHBI', 0x7075, 5 + len(uni), 1, zlib.crc32(raw) if crc is None else crc) + uni
# ------------------------------------------------------------------ expectations
CASES = []
def F(data=b'', mode=0o644, hl=None, n=None, run=None):
    if run:
        h = hashlib.sha256(); c, k = run; h.update(data); blk = bytes([c]) * 65536
        for _ in range(k // 65536): h.update(blk)
        h.update(bytes([c]) * (k % 65536)); d = dict(type='file', mode='%04o' % (mode & 0o777 & ~0o22), size=len(data) + k, sha256=h.hexdigest())
    else: d = dict(type='file', mode='%04o' % (mode & 0o777 & ~0o22), size=len(data), sha256=hashlib.sha256(data).hexdigest())
    if hl: d['hardlink_to'] = hl
    return d
def D(mode=0o755): return dict(type='dir', mode='%04o' % ((mode & 0o777 | 0o700) & ~0o22))
def L(target): return dict(type='symlink', target=target.decode('utf-8', 'surrogateescape'))
def case(name, data, expect, tree=None, kinds=(), why='', refs=(), entry=None, limits=None, kind=None):
    why = why or name.replace('-', ' ')
    kind = kind or ('zip' if name.startswith('zip-') else 'tar.gz')
    if kind == 'tar.gz' and not isinstance(data, Raw): data = gz(data)
    if isinstance(data, Raw): data = data.b
    CASES.append(dict(name=name, file=name + '.' + kind, type=kind, data=data, expect=expect, tree=tree, kinds=list(kinds), why=why, refs=list(refs), entry=entry, limits=limits or {}))
class Raw:
    def __init__(s, b): s.b = b
def R(name, data, kinds, why, refs=(), entry=None, **k): case(name, data, 'reject', None, kinds.split('|'), why, refs, entry, **k)
def A(name, data, tree, why, refs=(), **k): case(name, data, 'accept', tree, (), why, refs, **k)
def E(name, data, tree, kinds, why, refs=(), **k): case(name, data, 'either', tree, kinds.split('|'), why, refs, **k)
def show(b):
    try: return b.decode() if isinstance(b, bytes) else b
    except UnicodeDecodeError: return None
def main():
    if len(sys.argv) != 2: sys.exit(__doc__)
    out = sys.argv[1]; os.makedirs(out, exist_ok=True); names = set(); cs = []
    for c in CASES:
        assert c['name'] not in names, c['name']; names.add(c['name'])
        with open(os.path.join(out, c['file']), 'wb') as f: f.write(c['data'])
        t = None
        if c['tree'] is not None:
            t = []
            for p in sorted(c['tree'], key=lambda x: x if isinstance(x, bytes) else x.encode()):
                pb = p if isinstance(p, bytes) else p.encode(); e = {'path': show(pb)}
                if e['path'] is None: e['path_hex'] = pb.hex()
                e.update(c['tree'][p]); t.append(e)
        d = {k: c[k] for k in ('name', 'file', 'type', 'expect', 'kinds', 'why', 'refs', 'limits')}
        if c['entry'] is not None: d['entry'] = c['entry'].decode('utf-8', 'backslashreplace')
        d['bytes'] = len(c['data']); d['sha256'] = hashlib.sha256(c['data']).hexdigest(); d['tree'] = t; cs.append(d)
    with open(os.path.join(out, 'MANIFEST.json'), 'w') as f:
        json.dump(dict(format=1, umask='0022', canary=CAN.decode(), default_limits=DEFAULT_LIMITS, cases=cs), f, indent=1, ensure_ascii=True); f.write('\n')
    n = {k: sum(c['expect'] == k for c in cs) for k in ('accept', 'reject', 'either')}
    print(len(cs), 'cases', n, sum(c['bytes'] for c in cs), 'bytes')
# ================================================================== tar: names
HI = b'hello\n'
R('tar-abs-path', fdir(b'd/') + ent(CAN + b'/pwn', HI) + END, 'path-absolute', 'absolute member name', ['CVE-2007-4559', 'CVE-2001-1267'], CAN + b'/pwn')
R('tar-dotdot-lead', ent(b'ok.txt', HI) + ent(b'../outside.txt', b'pwned\n') + END, 'path-dotdot', "'..' climbs out", ['Zip Slip'], b'../outside.txt')
R('tar-dotdot-inside', fdir(b'a/') + ent(b'a/../b.txt', HI) + END, 'path-dotdot', "'..' that would stay inside is refused too", [], b'a/../b.txt')
R('tar-dotdot-ustar-prefix', ent(b'outside.txt', b'pwned\n', prefix=b'..') + END, 'path-dotdot', "'..' hidden in the ustar prefix field", [], b'../outside.txt')
R('tar-dotdot-pax-path', pax((b'path', b'../outside.txt')) + ent(b'safe.txt', b'pwned\n') + END, 'path-dotdot', 'harmless ustar name, hostile pax path', [], b'../outside.txt')
A('tar-backslash-is-a-byte', ent(b'..\\..\\evil.txt', HI) + ent(b'dir\\file', b'x') + END, {'..\\..\\evil.txt': F(HI), 'dir\\file': F(b'x')}, 'backslashes are ordinary bytes in tar', ['CVE-2021-37701'])
R('tar-empty-name', ent(b'', HI) + END, 'path-empty', 'a member without a name', ['libarchive test_read_format_tar_empty_filename'])
R('tar-dot-as-file', ent(b'.', HI) + END, 'path-empty|path-conflict', "a regular file named '.'", [], b'.')
A('tar-leading-dot-slash', fdir(b'./') + fdir(b'./a/') + ent(b'./a/./b.txt', HI) + ent(b'a//c.txt', b'c') + END, {'a': D(), 'a/b.txt': F(HI), 'a/c.txt': F(b'c')}, "'./', '.' and '//' are squeezed out")
R('tar-nul-in-pax-path', pax((b'path', b'ok.txt\0/../../outside.txt')) + ent(b'safe.txt', HI) + END, 'path-nul|pax-malformed', 'NUL inside a pax path', ['go pax-nul-path.tar'])
R('tar-nul-in-gnu-longname', longname(b'short.txt\0../../outside.txt') + ent(b'short.txt', HI, magic=GNU) + END, 'path-nul', 'bytes hidden behind a NUL in a GNU long name', ['go gnu-long-nul.tar'])
A('tar-non-utf8-names', ent(b'caf\xe9.txt', HI) + fdir(b'\xff\xfe/') + ent(b'\xff\xfe/\x80', b'x') + END, {b'caf\xe9.txt': F(HI), b'\xff\xfe': D(), b'\xff\xfe/\x80': F(b'x')}, 'names are bytes on Linux')
A('tar-control-characters', ent(b'esc\x1b[31mred\x1b[0m', HI) + ent(b'new\nline', b'1') + ent(b'tab\tbell\x07', b'2') + END, {'esc\x1b[31mred\x1b[0m': F(HI), 'new\nline': F(b'1'), 'tab\tbell\x07': F(b'2')}, 'kept on disk, escaped in logs and JSON', ['CVE-2025-46394'])
A('tar-component-255', longname(b'n' * 255) + ent(b'n' * 100, HI, magic=GNU) + END, {'n' * 255: F(HI)}, 'the longest name ext4 takes')
R('tar-component-256', longname(b'n' * 256) + ent(b'n' * 100, HI, magic=GNU) + END, 'path-too-long', 'a component over NAME_MAX')
R('tar-too-deep', pax((b'path', b'/'.join([b'd'] * 80) + b'/f')) + ent(b'f', HI) + END, 'path-too-deep', '81 levels with max_depth 64', ['CVE-2024-28863'])
R('tar-file-as-directory', ent(b'a', HI) + ent(b'a/b', HI) + END, 'path-conflict', 'a file used as a parent directory', [], b'a/b')
A('tar-duplicate-file-last-wins', ent(b'a', b'first\n', mode=0o600) + ent(b'b', b'b') + ent(b'a', b'second\n', mode=0o755) + END, {'a': F(b'second\n', 0o755), 'b': F(b'b')}, 'tar -r archives: the last copy wins')
A('tar-implied-directories', ent(b'x/y/z/f', HI) + END, {'x': D(), 'x/y': D(), 'x/y/z': D(), 'x/y/z/f': F(HI)}, 'parents without entries of their own')
# ================================================================== tar: symlinks
A('tar-symlinks-inside', fdir(b'd/') + ent(b'd/f', HI) + sym(b'd/s', b'f') + sym(b'l', b'd/f') + sym(b'fwd', b'later.txt') + sym(b'd/up', b'../later.txt') + ent(b'later.txt', b'L') + END,
  {'d': D(), 'd/f': F(HI), 'd/s': L(b'f'), 'l': L(b'd/f'), 'fwd': L(b'later.txt'), 'd/up': L(b'../later.txt'), 'later.txt': F(b'L')}, 'relative links that stay inside, forward ones too')
A('tar-symlink-dangling-inside', fdir(b'd/') + sym(b'd/l', b'../not-there') + END, {'d': D(), 'd/l': L(b'../not-there')}, 'dangling but inside: real trees ship them')
A('tar-symlink-to-own-root', fdir(b'sub/') + sym(b'sub/top', b'..') + END, {'sub': D(), 'sub/top': L(b'..')}, 'the version directory itself counts as inside')
R('tar-symlink-absolute', sym(b'l', CAN + b'/file') + END, 'symlink-absolute|symlink-escape', 'a link to an absolute path (read through it later)', ['CVE-2025-8959', 'CVE-2026-39246', 'CVE-2026-23745'], b'l')
R('tar-symlink-dotdot', fdir(b'a/') + sym(b'a/l', b'../../outside.txt') + END, 'symlink-escape', 'climbs out by one', ['CVE-2025-4330'], b'a/l')
R('tar-symlink-chain-lexical', fdir(b'a/') + fdir(b'a/b/') + fdir(b'a/b/c/') + sym(b'a/b/c/up', b'../..') + sym(b'a/b/escape', b'c/up/../..') + END,
  'symlink-escape', 'each target is inside by its letters, the second resolves outside through the first', ['CVE-2026-26960', 'CVE-2026-85731', 'CVE-2025-4330'], b'a/b/escape')
R('tar-symlink-escape-by-later-link', fdir(b'd/') + fdir(b'd/e/') + sym(b'd/e/m', b's/../t') + sym(b'd/e/s', b'../..') + END, 'symlink-escape', 'a link made harmful by one that comes after it', [], b'd/e/m')
R('tar-symlink-write-through', sym(b'link', CAN) + ent(b'link/pwn', b'pwned\n') + END, 'symlink-absolute|symlink-escape|parent-symlink', 'link out, then a file through it', ['RUSTSEC-2018-0002', 'CVE-2026-46703', 'CVE-2026-17106', 'CVE-2026-26158'], b'link')
R('tar-symlink-mkdir-through', sym(b'symlink', b'..') + ent(b'symlink/exploit/foo/bar', b'') + END, 'symlink-escape|parent-symlink', 'directories made outside before the file is refused', ['CVE-2021-38511', 'RUSTSEC-2021-0080'], b'symlink')
R('tar-parent-symlink-inside', fdir(b'd/') + sym(b'l', b'd') + ent(b'l/file', HI) + END, 'parent-symlink', 'a member placed through a link, even one that stays inside', ['safearchive PreventSymlinkTraversal'], b'l/file')
R('tar-file-over-symlink', sym(b'moo', CAN + b'/file') + ent(b'moo', b'pwned\n') + END, 'symlink-absolute|symlink-escape', 'link out, then a file of the same name', ['RUSTSEC-2018-0002'], b'moo')
A('tar-file-replaces-inside-symlink', ent(b't', b'target\n') + sym(b'l', b't') + ent(b'l', b'new\n') + END, {'t': F(b'target\n'), 'l': F(b'new\n')}, 'the link is replaced, its target is not written')
R('tar-dir-over-symlink-chmod', fdir(b'real/', 0o700) + sym(b'foo', b'real') + fdir(b'foo/', 0o777) + END, 'path-conflict|parent-symlink', 'a directory entry named as a link: chmod follows it', ['CVE-2026-33056', 'RUSTSEC-2026-0113'], b'foo/')
R('tar-dir-over-symlink-chmod-outside', sym(b'foo', CAN + b'/dir') + fdir(b'foo/', 0o777) + END, 'symlink-absolute|symlink-escape|path-conflict', 'the same with a link out', ['CVE-2026-33056'], b'foo')
R('tar-dir-then-symlink', fdir(b'x/') + sym(b'x', b'y') + fdir(b'y/') + ent(b'x/f', HI) + END, 'path-conflict|parent-symlink', 'directory swapped for a link (directory cache poisoning)', ['CVE-2021-32803'], b'x')
R('tar-symlink-trailing-slash', sym(b'linktoroot/', CAN) + ent(b'linktoroot/pwn', b'pwned\n') + END, 'symlink-absolute|symlink-escape|parent-symlink', "link named with a trailing '/'", ['safearchive traverse-slash-at-the-end.tar', 'CVE-2026-7774', 'CVE-2026-39822'])
R('tar-symlink-empty-target', sym(b'l', b'') + END, 'symlink-empty', 'a link to nothing', [], b'l')
R('tar-symlink-empty-name', sym(b'', b'..') + ent(b'x', HI) + END, 'path-empty', 'a link without a name', ['CVE-2026-7774'])
R('tar-symlink-loop', sym(b'a', b'b') + sym(b'b', b'a') + END, 'symlink-loop', 'two links that point at each other')
# ================================================================== tar: hard links
A('tar-hardlink', ent(b'a', HI, mode=0o640) + fdir(b'd/') + hard(b'd/b', b'a', mode=0o777) + hard(b'c', b'./d/b') + END,
  {'a': F(HI, 0o640), 'd': D(), 'd/b': F(HI, 0o640, 'a'), 'c': F(HI, 0o640, 'd/b')}, 'to earlier files of the archive; the mode is the first file\'s')
R('tar-hardlink-dotdot', hard(b'loot', b'../outside.txt') + END, 'hardlink-escape', 'link(2) to a file outside', ['CVE-2026-26960', 'CVE-2026-42497', 'frostyard/nbc#86'], b'loot')
R('tar-hardlink-absolute', hard(b'loot', CAN + b'/file') + END, 'hardlink-escape', 'link(2) to an absolute path', ['CVE-2026-23745', 'CVE-2018-20990'], b'loot')
R('tar-hardlink-through-symlink', fdir(b'd/') + ent(b'd/f', HI) + sym(b'l', b'd') + hard(b'h', b'l/f') + END, 'hardlink-escape|hardlink-bad-target|parent-symlink', 'target reached through a link', ['CVE-2026-26960'], b'h')
R('tar-hardlink-to-symlink', fdir(b'a/') + fdir(b'a/b/') + sym(b'a/b/s', b'../../x') + hard(b's2', b'a/b/s') + END, 'hardlink-bad-target', 'a deep inside link made again at a shallower place escapes', ['CVE-2026-11940', 'CVE-2025-4330'], b's2')
R('tar-hardlink-missing', hard(b'h', b'later') + ent(b'later', HI) + END, 'hardlink-missing', 'target comes later, so it is not there yet', [], b'h')
R('tar-hardlink-cwd', hard(b'h', b'outside.txt') + END, 'hardlink-missing', 'a relative target taken from the working directory', ['CVE-2026-50163'], b'h')
R('tar-hardlink-with-data', ent(b'a', HI) + ent(b'b', b'overwrite', ty=b'1', link=b'a', size=9) + END, 'size-conflict', 'hard link entry that carries a body', ['CVE-2016-5418', 'libarchive#746'], b'b')
A('tar-hardlink-then-overwrite', ent(b'a', b'old\n') + hard(b'b', b'a') + ent(b'a', b'new\n') + END, {'a': F(b'new\n'), 'b': F(b'old\n')}, 'the later copy makes a new file, the link keeps the old bytes')
# ================================================================== tar: kinds, modes, owners
R('tar-fifo', ent(b'ok', HI) + ent(b'p', ty=b'6') + END, 'special-file', 'FIFO', ['CVE-2007-4131'], b'p')
R('tar-chardev', ent(b'null', ty=b'3') + END, 'special-file', 'character device', [], b'null')
R('tar-unknown-type', ent(b'z', b'', ty=b'Z') + ent(b'ok', HI) + END, 'unknown-type', 'a typeflag nobody defined', [], b'z')
A('tar-volume-label', ent(b'MY-LABEL', ty=b'V', magic=GNU, mode=0) + ent(b'f', HI, magic=GNU) + END, {'f': F(HI)}, 'GNU tar -V: skipped by GNU tar and bsdtar')
A('tar-setuid-stripped', fdir(b'd/', 0o1777) + ent(b'd/su', HI, mode=0o6755) + ent(b'sg', HI, mode=0o2711) + END, {'d': D(0o777), 'd/su': F(HI, 0o755), 'sg': F(HI, 0o711)}, 'setuid, setgid and sticky fall away')
A('tar-modes', fdir(b'd/', 0o000) + ent(b'd/f', HI, mode=0o000) + ent(b'x', HI, mode=0o777) + fdir(b'ro/', 0o555) + ent(b'ro/g', HI, mode=0o444) + END, {'d': D(0o700), 'd/f': F(HI, 0), 'x': F(HI, 0o755), 'ro': D(0o755), 'ro/g': F(HI, 0o444)}, 'umask 022; a directory always has u+rwx')
A('tar-owner-and-xattrs-ignored', pax((b'SCHILY.xattr.security.capability', b'\x01\0\0\2\0 \0\0'), (b'SCHILY.xattr.user.x', b'a=b\nc'), (b'uid', b'2000000000'), (b'uname', b'root'), (b'mtime', b'-1.5')) + ent(b'f', HI, uidf=b256(1 << 40, 8), uname=b'root', gname=b'wheel') + END, {'f': F(HI)}, 'owner, capabilities and xattrs are dropped')
# ================================================================== tar: sizes and desynchronisation
INNER = ent(b'smuggled.txt', b'evil\n') + END
A('tar-pax-size-over-zero', pax((b'size', b'%d' % len(INNER))) + ent(b'inner.tar', INNER, size=0) + ent(b'after.txt', HI) + END, {'inner.tar': F(INNER), 'after.txt': F(HI)}, 'pax size wins over a ustar size of 0: no smuggled.txt', ['CVE-2025-62518'])
A('tar-pax-size-over-nonzero', pax((b'size', b'%d' % len(INNER))) + ent(b'inner.tar', INNER, size=512) + ent(b'after.txt', HI) + END, {'inner.tar': F(INNER), 'after.txt': F(HI)}, 'pax size wins over a smaller ustar size', ['CVE-2026-33055'])
LN = b'long-' + b'n' * 120
E('tar-pax-size-not-for-longname', pax((b'size', b'2048')) + longname(LN) + ent(LN[:100], b'D' * 2048, size=0) + ent(b'after.txt', HI) + END, {LN.decode(): F(b'D' * 2048), 'after.txt': F(HI)}, 'ext-ambiguous', 'the pax size is the member\'s, not the L entry\'s', ['RUSTSEC-2026-0112', 'RUSTSEC-2026-0145'])
R('tar-size-on-directory', fdir(b'd/', size=1024) + ent(b'hidden.txt', b'evil\n') + ent(b'seen.txt', HI) + END, 'size-conflict', 'directory with a size: tar 0.4.46 and astral-tokio-tar 0.7.0 skip 1024 bytes and lose hidden.txt, GNU tar, bsdtar, Go and Python do not', ['cpython dirtype-with-size'], b'd/')
R('tar-size-negative', ent(b'n', HI, sizef=b256(-512, 12)) + END, 'size-invalid', 'negative base-256 size (endless loop in some readers)', ['CVE-2025-8194', 'go neg-size.tar'], b'n')
R('tar-size-overflow', ent(b'n', HI, sizef=b256((1 << 63) + 511, 12)) + END, 'size-invalid|limit-file', 'size over 2^63', [], b'n')
R('tar-size-not-octal', ent(b'n', HI, sizef=b'00000000xyz\0') + END, 'size-invalid', 'letters in the size field', [], b'n')
R('tar-size-leading-nul', ent(b'n', b'0123456789', sizef=b'\0\0\0\0\0\0\x0000012'[:12]) + ent(b'm', HI) + END, 'size-invalid', 'NULs before the digits: readers disagree (0 or 10)', ['libarchive test_read_format_tar_timestamp_overflow'], b'n')
R('tar-trailing-slash-with-data', ent(b'd/', b'x' * 512) + ent(b'f', HI) + END, 'type-conflict|size-conflict', "regular file named 'd/' with a body", ['CVE-2025-13462', 'libarchive test_compat_tar_directory_1'], b'd/')
A('tar-base256-size', ent(b'f', HI, sizef=b256(len(HI), 12), magic=GNU) + END, {'f': F(HI)}, 'base-256 size')
R('tar-bad-checksum', ent(b'ok', HI) + ent(b'f', HI, cks=12345) + END, 'checksum', 'a header whose checksum is wrong')
E('tar-signed-checksum', ent(b'f\xe9\xe8', HI, cks=lambda h: sum(c - 256 if c > 127 else c for c in h)) + END, {b'f\xe9\xe8': F(HI)}, 'checksum|not-an-archive', 'old Sun tar summed signed bytes; tar 0.4.46 refuses it')
# ================================================================== tar: formats that must work
A('tar-v7', ent(b'a', HI, magic=V7) + ent(b'd/', ty=b'\0', magic=V7, mode=0o755) + ent(b'd/b', b'b', magic=V7, ty=b'\0') + END, {'a': F(HI), 'd': D(), 'd/b': F(b'b')}, "pre-POSIX headers, directory by trailing '/'")
PFX = b'p' * 60 + b'/' + b'q' * 60
A('tar-ustar-prefix', ent(b'r' * 90, HI, prefix=PFX) + END, {'p' * 60: D(), PFX.decode(): D(), PFX.decode() + '/' + 'r' * 90: F(HI)}, 'long name by the ustar prefix')
LT = b't' * 150
A('tar-gnu-longname-longlink', longname(LN) + ent(LN[:100], HI, magic=GNU) + longname(LT, b'K') + sym(b'l', LT[:100], magic=GNU) + longname(LN + b'2') + longname(LN, b'K') + hard(b'x', b'x', magic=GNU) + END, {LN.decode(): F(HI), 'l': L(LT), LN.decode() + '2': F(HI, hl=LN.decode())}, 'GNU L and K')
UN = 'päth-\u4f60\u597d-' + 'x' * 120
A('tar-pax-path-linkpath', pax((b'path', UN.encode()), (b'mtime', b'1.5')) + ent(b'short', HI) + pax((b'linkpath', UN.encode())) + sym(b'l', b'short') + END, {UN: F(HI), 'l': L(UN.encode())}, 'pax path and linkpath, UTF-8')
A('tar-pax-global-comment', pax((b'comment', b'0123456789abcdef'), ty=b'g', name=b'pax_global_header') + ent(b'f', HI) + END, {'f': F(HI)}, 'git archive writes this')
R('tar-pax-global-path', pax((b'path', b'stolen.txt'), ty=b'g') + ent(b'f', HI) + ent(b'g', HI) + END, 'pax-global-unsafe', 'a global path: some readers apply it to every member, some ignore it', ['go pax-global-records.tar'])
R('tar-pax-bad-length', pax(raw=b'99 path=a\n') + ent(b'f', HI) + END, 'pax-malformed', 'record length beyond the payload', ['CVE-2026-32766'])
E('tar-pax-duplicate-path', pax((b'path', b'first.txt'), (b'path', b'second.txt')) + ent(b'f', HI) + END, {'second.txt': F(HI)}, 'ext-ambiguous|pax-malformed', 'POSIX: the last record wins; tar 0.4.46 takes the first', ['tokio-tar pax-header-precedence.tar'])
R('tar-pax-path-and-longname', pax((b'path', b'from-pax.txt')) + longname(b'from-gnu.txt') + ent(b'f', HI) + END, 'ext-ambiguous', 'two names for one member, readers choose differently', ['astral-sh/tokio-tar#95'])
E('tar-pax-twice', pax((b'path', b'one.txt')) + pax((b'path', b'two.txt')) + ent(b'f', HI) + END, {'two.txt': F(HI)}, 'ext-ambiguous', 'two x headers in a row', ['go pax-multi-hdrs.tar'])
R('tar-pax-dangling', ent(b'f', HI) + pax((b'path', b'g')) + END, 'ext-dangling|truncated', 'x header without a member', ['tokio-tar diff-024-pending-pax-boundary.tar'])
R('tar-pax-huge-claim', hdr(b'PaxHeaders/x', size=3 << 30, ty=b'x') + b'\0' * 1024, 'ext-too-big|truncated', 'an x header that claims 3 GiB must not be allocated', ['CVE-2022-2879', 'commons-compress pax-fail.tar'])
SD = b'A' * 512 + b'B' * 512
SPX = b'A' * 512 + b'\0' * 3584 + b'B' * 512 + b'\0' * 3584
def oldsparse(segs, real, data, name=b'sp', size=None, ext=0, magic=GNU, star=False):
    num = lambda v: octal(v, 12) if v < 1 << 33 else b256(v, 12)
    p = [(386 + 24 * i, num(o) + num(n)) for i, (o, n) in enumerate(segs[:4])] + [(482, bytes([ext])), (483, num(real))] + star * [(508, b'tar\0')]
    return hdr(name, size=len(data) if size is None else size, ty=b'S', magic=magic, patch=p) + pad(data)
E('tar-sparse-gnu', oldsparse([(0, 512), (4096, 512), (8192, 0)], 8192, SD) + ent(b'after', HI, magic=GNU) + END, {'sp': F(SPX), 'after': F(HI)}, 'sparse-unsupported|sparse-invalid', 'old GNU sparse file, expanded or refused')
M10 = pad(b'3\n0\n512\n4096\n512\n8192\n0\n')
E('tar-sparse-pax-10', pax((b'GNU.sparse.major', b'1'), (b'GNU.sparse.minor', b'0'), (b'GNU.sparse.name', b'sp'), (b'GNU.sparse.realsize', b'8192')) + ent(b'GNUSparseFile.1/sp', M10 + SD) + ent(b'after', HI) + END, {'sp': F(SPX), 'after': F(HI)}, 'sparse-unsupported|sparse-invalid', 'pax sparse 1.0: tar 0.4.46 writes the map into the file', ['tar-rs 295'])
R('tar-sparse-huge', oldsparse([(0, 512), (1 << 43, 0)], 1 << 43, b'A' * 512) + END, 'limit-file|limit-total|limit-ratio|sparse-unsupported|sparse-invalid', '8 TiB of hole in 1 KiB', ['tar-rs sparse-large.tar'], b'sp')
R('tar-sparse-overlap', oldsparse([(0, 512), (256, 512)], 8192, SD) + END, 'sparse-invalid|sparse-unsupported', 'overlapping sparse map', [], b'sp')
R('tar-sparse-pax-name-escape', pax((b'GNU.sparse.major', b'1'), (b'GNU.sparse.minor', b'0'), (b'GNU.sparse.name', b'../outside.txt'), (b'GNU.sparse.realsize', b'512')) + ent(b'safe', pad(b'1\n0\n512\n') + b'A' * 512) + END, 'path-dotdot|sparse-unsupported|sparse-invalid', 'the hostile name sits in GNU.sparse.name')
# ================================================================== tar and gzip: ends
A('tar-empty', END, {}, 'no members')
A('tar-no-end-marker', ent(b'a', HI) + ent(b'b', HI), {'a': F(HI), 'b': F(HI)}, 'many writers forget it; gzip still tells a cut')
R('tar-truncated-data', ent(b'a', b'x' * 5000)[:512 + 3000], 'truncated', 'ends inside a file', [], b'a')
R('tar-truncated-header', ent(b'a', HI) + ent(b'b', HI)[:200], 'truncated', 'ends inside a header')
R('tar-lone-zero-block', ent(b'a', HI) + b'\0' * 512 + ent(b'hidden', b'evil\n') + END, 'tar-eof', 'one zero block, then more members: GNU tar, bsdtar, Python stop, busybox and node-tar go on, Go refuses')
A('tar-garbage-after-end', ent(b'a', HI) + END + b'GARBAGE' * 100, {'a': F(HI)}, 'GNU tar and bsdtar stop at two zero blocks')
T1 = ent(b'a', HI) + ent(b'b', b'B' * 700) + END
A('gz-multi-member', Raw(gz(T1[:700]) + gz(b'') + gz(T1[700:])), {'a': F(HI), 'b': F(b'B' * 700)}, 'members are one stream (pigz, cat a.gz b.gz)')
A('gz-zero-padding', Raw(gz(T1) + b'\0' * 1000), {'a': F(HI), 'b': F(b'B' * 700)}, 'gzip ignores trailing zeros')
R('gz-trailing-garbage', Raw(gz(T1) + b'trailing garbage'), 'gzip-trailing', 'gzip and GNU tar end with status 2')
R('gz-bad-crc', Raw(gz(T1, crc=0x12345678)), 'gzip-crc', 'CRC of the whole stream is wrong')
R('gz-truncated-trailer', Raw(gz(T1)[:-3]), 'truncated', 'cut in the gzip trailer, all tar blocks there')
A('gz-header-fields', Raw(gz(T1, extra=b'AB\x04\0wxyz', name=b'../../evil.tar', comment=b'c', hcrc=True)), {'a': F(HI), 'b': F(b'B' * 700)}, 'FEXTRA, FNAME (never used as a path), FCOMMENT, FHCRC')
# ================================================================== limits
ZB = 4 * MIB; ZH = ent(b'zeros', size=ZB)
def gzrun(head, n, tail=b''):
    """gzip of head + n zero bytes + tail (tail short), by hand"""
    w = Bits(); w.put(0, 1); w.put(1, 2)
    for c in head: w.lit(c)
    w.lit(0); k = n - 1
    while k >= 258: w.huff(0xC5, 8); w.huff(0, 5); k -= 258
    for _ in range(k): w.lit(0)
    w.huff(0, 7); w.put(1, 1); w.put(1, 2)
    for c in tail: w.lit(c)
    w.huff(0, 7); crc = zlib.crc32(tail, crc_run(0, n, zlib.crc32(head)))
    return gz(b'', body=w.done(), crc=crc, isize=(len(head) + n + len(tail)) & 0xffffffff)
A('limit-zeros-under', Raw(gzrun(ZH, ZB + 1024)), {'zeros': F(run=(0, ZB))}, '4 MiB of zeros under the default limits')
R('limit-file-bytes', Raw(gzrun(ZH, ZB + 1024)), 'limit-file', 'the same with max_file_bytes 1 MiB', [], b'zeros', limits=dict(max_file_bytes=MIB))
R('limit-total-bytes', b''.join(ent(b'f%d' % i, b'x' * 1000) for i in range(20)) + END, 'limit-total', '20 files of 1000 bytes with max_total_bytes 8192', limits=dict(max_total_bytes=8192))
R('limit-ratio', Raw(gzrun(ZH, ZB + 1024)), 'limit-ratio', 'over 100 to 1 with max_ratio 100', ['CVE-2023-0475', 'CVE-2022-36114'], limits=dict(max_ratio=100, ratio_floor_bytes=65536))
R('limit-entries', b''.join(ent(b'f%d' % i) for i in range(150)) + END, 'limit-entries', '150 empty files with max_entries 100', limits=dict(max_entries=100))
# ================================================================== zip: names
def z1(*a, **k): return Zip().add(*a, **k)
R('zip-abs-path', z1(CAN + b'/pwn', HI).end(), 'path-absolute', 'absolute name', ['Zip Slip'], CAN + b'/pwn')
R('zip-dotdot', z1(b'ok.txt', HI).add(b'../outside.txt', b'pwned\n', 8).end(), 'path-dotdot', "'..' climbs out", ['Zip Slip'], b'../outside.txt')
R('zip-dotdot-inside', z1(b'a/../b.txt', HI).end(), 'path-dotdot', "'..' that would stay inside (the zip crate resolves it)", [], b'a/../b.txt')
A('zip-plain', z1(b'd/', mode=0o40755).add(b'd/a.txt', HI, 8).add(b'./b.sh', b'#!\n', 0, mode=0o100755).add(b'e/f', b'', 8).end(), {'d': D(), 'd/a.txt': F(HI), 'b.sh': F(b'#!\n', 0o755), 'e': D(), 'e/f': F(b'')}, 'stored and deflated, directory entry, implied directory')
A('zip-windows-backslash', z1(b'dir\\sub\\file.txt', HI, host=0).add(b'dir\\', host=0).end(), {'dir': D(), 'dir/sub': D(), 'dir/sub/file.txt': F(HI)}, "made on DOS/Windows, no '/': converted, as unzip, bsdtar, Go and the zip crate do")
R('zip-windows-backslash-dotdot', z1(b'..\\..\\outside.txt', b'pwned\n', host=0).end(), 'path-dotdot', 'converted first, then checked', ['zip-slip-win.zip'])
A('zip-unix-backslash', z1(b'dev\\x2dsda.device', HI).end(), {'dev\\x2dsda.device': F(HI)}, 'made on Unix: a backslash is a byte (systemd unit names have them)')
R('zip-nul-name', z1(b'ok.txt\0.exe', HI).end(), 'path-nul', 'NUL in a name')
R('zip-empty-name', z1(b'', HI).end(), 'path-empty', 'no name')
A('zip-utf8-name', z1('\u4f60\u597d.txt'.encode(), HI, flags=0x800).end(), {'\u4f60\u597d.txt': F(HI)}, 'flag bit 11')
A('zip-cp437-name', z1(b'caf\x82.txt', HI, host=0).end(), {'caf\u00e9.txt': F(HI)}, 'no flag, DOS host: cp437 becomes UTF-8 (as Python and the zip crate do)')
R('zip-bad-utf8-name', z1(b'caf\xe9.txt', HI, flags=0x800).end(), 'name-encoding', 'flag bit 11 and not UTF-8')
R('zip-duplicate-name', z1(b'a.txt', b'first\n').add(b'a.txt', b'second\n').end(), 'duplicate-name', 'two entries of one name: scanners see one, extractors the other', ['CVE-2025-54368'], b'a.txt')
R('zip-file-as-directory', z1(b'a', HI).add(b'a/b', HI).end(), 'path-conflict', 'file and directory of one name', [], b'a/b')
R('zip-name-256', z1(b'n' * 256, HI).end(), 'path-too-long', 'a component over NAME_MAX')
# ================================================================== zip: links, kinds, modes
LNK = 0o120777
A('zip-symlink', z1(b'd/f', HI).add(b'l', b'd/f', mode=LNK).add(b'd/up', b'../l', 8, mode=LNK).end(), {'d': D(), 'd/f': F(HI), 'l': L(b'd/f'), 'd/up': L(b'../l')}, 'links by Unix mode')
R('zip-symlink-absolute', z1(b'l', CAN + b'/file', mode=LNK).end(), 'symlink-absolute|symlink-escape', 'link out', ['CVE-2026-56876', 'CVE-2025-55188'], b'l')
R('zip-symlink-write-through', z1(b'l', CAN, mode=LNK).add(b'l/pwn', b'pwned\n').end(), 'symlink-absolute|symlink-escape|parent-symlink', 'link out, then a file through it', ['CVE-2025-29787', 'CVE-2025-11001'], b'l')
R('zip-symlink-chain', z1(b'a/b/c/up', b'../..', mode=LNK).add(b'a/b/escape', b'c/up/../..', mode=LNK).end(), 'symlink-escape', 'inside by its letters, outside when resolved', ['CVE-2026-85731'], b'a/b/escape')
R('zip-fifo', z1(b'p', b'', mode=0o010644).end(), 'special-file', 'FIFO by Unix mode', [], b'p')
A('zip-setuid-stripped', z1(b'su', HI, mode=0o106755).add(b'd/', mode=0o041777).end(), {'su': F(HI, 0o755), 'd': D(0o777)}, 'special bits fall away')
R('zip-directory-with-data', z1(b'd/', b'data', mode=0o40755).end(), 'type-conflict', "a name ending in '/' with content", [], b'd/')
# ================================================================== zip: two truths
R('zip-local-name-differs', z1(b'good.txt', b'evil\n', lname=b'evil.txt').end(), 'zip-mismatch', 'local header says another name', ['CVE-2025-54368', 'CVE-2025-13327'], b'good.txt')
R('zip-local-method-differs', z1(b'a.txt', b'A' * 20, comp=deflate(b'A' * 20), method=8, lmethod=0).end(), 'zip-mismatch', 'local header says stored, directory says deflate')
R('zip-local-size-differs', z1(b'a.txt', b'0123456789', lsize=4, lcsize=4).end(), 'zip-mismatch', 'local header has other sizes')
R('zip-unlisted-local-entry', z1(b'a.txt', HI).add(b'hidden.txt', b'evil\n', list_it=False).add(b'b.txt', HI).end(), 'zip-unlisted', 'an entry the directory does not list: streaming readers extract it', ['CVE-2025-54368', 'commons-compress COMPRESS-227.zip'])
def quoted(n, kernel):
    """Fifield's quoted overlap: the data of file i is a stored block quoting the header of file i+1, then that file's data"""
    k = deflate(b'', (97, kernel)); parts = []
    for i in range(n - 1, -1, -1):
        if not parts: crc, size, comp = crc_run(97, kernel), kernel, len(k)
        else:
            z = 0
            for p in parts: z = zlib.crc32(p[0], z)
            crc, size, comp = crc_run(97, kernel, z), len(parts[0][0]) + parts[0][2], 5 + len(parts[0][0]) + parts[0][3]
        h = b'PK\3\4' + struct.pack('<HHHHHIIIHH', 20, 0, 8, 0, 0x5821, crc, comp, size, 2, 0) + b'%02d' % i
        parts.insert(0, (h, crc, size, comp))
    body = cd = b''
    for i, (h, crc, size, comp) in enumerate(parts):
        cd += b'PK\1\2' + struct.pack('<HHHHHHIIIHHHHHII', 3 << 8 | 20, 20, 0, 8, 0, 0x5821, crc, comp, size, 2, 0, 0, 0, 0, 0o100644 << 16, len(body)) + b'%02d' % i
        body += h
        if i < n - 1: q = len(parts[i + 1][0]); body += b'\0' + struct.pack('<HH', q, q ^ 0xffff)
    body += k
    return body + cd + b'PK\5\6' + struct.pack('<HHHHIIH', 0, 0, n, n, len(cd), len(body), 0)
R('zip-overlap-quoted', quoted(20, 100000), 'zip-overlap|limit-ratio', 'quoted overlap bomb: 20 files share one kernel', ['CVE-2019-13232', 'CVE-2024-0450'])
R('zip-overlap-same-data', z1(b'a', b'A' * 300).add(b'b', b'A' * 300, local=False, offset=0).end(), 'zip-overlap|zip-mismatch', 'two directory records, one local header', ['CVE-2019-13232', 'cpython#151307'])
R('zip-two-archives', z1(b'first.txt', HI).end() + z1(b'second.txt', HI).end(), 'zip-prefix|zip-ambiguous|zip-unlisted|zip-eocd', 'one archive in front of another: readers pick different ones', ['CVE-2025-54368'])
R('zip-end-record-in-comment', z1(b'a.txt', HI).end(comment=z1(b'b.txt', b'evil\n').end()), 'zip-ambiguous|zip-eocd', 'the comment holds a whole archive', ['uv ZipInZip check'])
R('zip-encrypted', z1(b'a.txt', HI, flags=1).end(), 'zip-encrypted', 'flag bit 0', [], b'a.txt')
R('zip-method-bzip2', z1(b'a.txt', HI, 12, comp=b'BZh9').end(), 'zip-method', 'method 12', [], b'a.txt')
A('zip-zip64', z1(b'a.txt', HI, size=0xffffffff, csize=0xffffffff, extra=z64x(6, 6), need=45).end(z64={}), {'a.txt': F(HI)}, 'zip64 extra field, end record and locator')
R('zip-zip64-count-disagrees', z1(b'a.txt', HI).add(b'b.txt', HI).end(z64=dict(n=1, e32=(2, 0xffffffff, 0xffffffff))), 'zip-eocd|zip-cd', 'two end records, two counts', ['CVE-2025-8291'])
A('zip-data-descriptor', z1(b'a.txt', HI, 8, flags=8).add(b'b.txt', b'bb', 8, flags=8, desc=struct.pack('<III', zlib.crc32(b'bb'), len(deflate(b'bb')), 2)).end(), {'a.txt': F(HI), 'b.txt': F(b'bb')}, 'with and without signature')
R('zip-descriptor-differs', z1(b'a.txt', HI, 8, flags=8, desc=b'PK\7\x08' + struct.pack('<III', 1, 2, 3)).end(), 'zip-mismatch', 'descriptor disagrees with the directory')
R('zip-bad-crc', z1(b'a.txt', HI, crc=0xdeadbeef).end(), 'zip-crc', 'CRC of the content is wrong', [], b'a.txt')
R('zip-more-than-declared', z1(b'a.txt', b'A' * 1000, 8, size=10).end(), 'zip-size', 'inflates to more than it declares', ['libarchive size_exceeds_declared'], b'a.txt')
R('zip-bomb-entry', z1(b'z', b'', 8, comp=deflate(b'', (0, 4 * MIB)), size=4 * MIB, crc=crc_run(0, 4 * MIB)).end(), 'limit-ratio', '150 to 1 with max_ratio 100', ['Fifield'], b'z', limits=dict(max_ratio=100, ratio_floor_bytes=65536))
R('zip-limit-total', Zip().add(b'a', b'x' * 5000).add(b'b', b'x' * 5000).end(), 'limit-total', 'two files of 5000 with max_total_bytes 8192', limits=dict(max_total_bytes=8192))
R('zip-truncated', z1(b'a.txt', HI).add(b'b.txt', b'B' * 500).end()[:400], 'zip-eocd|not-an-archive|truncated', 'no end record')
A('zip-empty', Zip().end(), {}, 'end record only')
A('zip-nul-padding', z1(b'a.txt', HI).end(after=b'\0' * 700), {'a.txt': F(HI)}, 'NULs after the end record: uv found real tools that write them')
E('zip-trailing-bytes', z1(b'a.txt', HI).end(after=b'junk after the end'), {'a.txt': F(HI)}, 'zip-trailing|zip-eocd', 'unzip, bsdtar, 7z and Go take it; PyPI, uv and yauzl do not')
def sfx(stub):
    return stub + z1(b'a.txt', HI).end()
E('zip-prefix', sfx(b'#!/bin/sh\nexit 0\n'), {'a.txt': F(HI)}, 'zip-prefix|zip-eocd', 'a stub in front, offsets not adjusted')
# ================================================================== and more of each
R('tar-slash-only', fdir(b'/') + ent(b'a', HI) + END, 'path-absolute|path-empty', "a directory entry named '/'", [], b'/')
R('tar-dotdot-last-component', fdir(b'a/b/..') + END, 'path-dotdot', "a directory entry that ends in '..' (busybox strips only '/../')", ['CVE-2026-26157'], b'a/b/..')
A('tar-three-dots-is-a-name', ent(b'...', HI) + ent(b'..a', b'1') + fdir(b'b../') + ent(b'b../..c', b'2') + END, {'...': F(HI), '..a': F(b'1'), 'b..': D(), 'b../..c': F(b'2')}, "names that only look like '..'")
R('tar-pax-empty-path', pax((b'path', b'')) + ent(b'real.txt', HI) + END, 'path-empty|pax-malformed', 'an empty pax path: some fall back to the ustar name', ['astral-sh/tokio-tar#95'])
A('tar-pax-binary-names', pax((b'hdrcharset', b'BINARY'), (b'path', b'b\xe4\xf6\xfc')) + ent(b'b___', HI) + END, {b'b\xe4\xf6\xfc': F(HI)}, 'pax path that is not UTF-8 (GNU tar and libarchive write it so)')
LONGP = b'/'.join([b'x' * 200] * 25)
R('tar-path-over-4096', longname(LONGP) + ent(LONGP[:100], HI, magic=GNU) + END, 'path-too-long', '5024 bytes, every component short enough')
A('tar-depth-64', pax((b'path', b'd/' * 63 + b'f')) + ent(b'f', HI) + END, dict([('/'.join(['d'] * i), D()) for i in range(1, 64)] + [('/'.join(['d'] * 63) + '/f', F(HI))]), 'exactly max_depth components')
R('tar-directory-then-file', fdir(b'a/') + ent(b'a/b', HI) + ent(b'a', HI) + END, 'path-conflict', 'a file over a directory that has members', [], b'a')
A('tar-symlink-long-way-inside', fdir(b'd/') + fdir(b'd/e/') + sym(b'd/e/r', b'../..') + ent(b'f', HI) + sym(b'x', b'd/e/r/d/e/r/f') + END, {'d': D(), 'd/e': D(), 'd/e/r': L(b'../..'), 'f': F(HI), 'x': L(b'd/e/r/d/e/r/f')}, 'the same hops, but inside')
R('tar-symlink-self', sym(b'a', b'a') + END, 'symlink-loop', 'a link to itself', [], b'a')
R('tar-symlink-over-directory', fdir(b'a/') + fdir(b'a/b/') + ent(b'a/b/f', HI) + sym(b'a/b', b'../c') + END, 'path-conflict', 'a link over a directory that has members', [], b'a/b')
A('tar-symlink-last-wins', sym(b'l', b'one') + ent(b'one', b'1') + ent(b'two', b'2') + sym(b'l', b'two') + END, {'l': L(b'two'), 'one': F(b'1'), 'two': F(b'2')}, 'a link given twice')
R('tar-hardlink-self', hard(b'h', b'h') + END, 'hardlink-missing|hardlink-bad-target', 'a hard link to itself', [], b'h')
R('tar-hardlink-to-directory', fdir(b'd/') + hard(b'h', b'd') + END, 'hardlink-bad-target', 'a hard link to a directory', [], b'h')
A('tar-contiguous-file', ent(b'c', HI, ty=b'7') + END, {'c': F(HI)}, "type '7' is a regular file")
R('tar-multivolume', ent(b'm', b'tail of a file', ty=b'M', size=14, magic=GNU) + END, 'unknown-type', 'continuation from another volume', [], b'm')
R('tar-dumpdir', ent(b'd/', b'Yf\0\0', ty=b'D', size=4, magic=GNU) + ent(b'd/f', HI, magic=GNU) + END, 'unknown-type', 'GNU incremental directory listing')
R('tar-first-checksum-bad', ent(b'f', HI, cks=1) + END, 'checksum|not-an-archive', 'the very first header is broken')
R('tar-pax-global-size', pax((b'size', b'0'), ty=b'g') + ent(b'f', b'x' * 512) + END, 'pax-global-unsafe', 'a global size would move every boundary')
E('tar-two-longnames', longname(b'one.txt') + longname(b'two.txt') + ent(b'f', HI, magic=GNU) + END, {'two.txt': F(HI)}, 'ext-ambiguous', 'two L entries in a row', ['go gnu-multi-hdrs.tar'])
R('tar-longname-dangling', ent(b'f', HI) + longname(b'nothing-follows') + END, 'ext-dangling|truncated', 'L without a member')
E('tar-sparse-pax-00', pax((b'GNU.sparse.size', b'8192'), (b'GNU.sparse.numblocks', b'3'), (b'GNU.sparse.offset', b'0'), (b'GNU.sparse.numbytes', b'512'), (b'GNU.sparse.offset', b'4096'), (b'GNU.sparse.numbytes', b'512'), (b'GNU.sparse.offset', b'8192'), (b'GNU.sparse.numbytes', b'0')) + ent(b'sp', SD) + ent(b'z', HI) + END, {'sp': F(SPX), 'z': F(HI)}, 'sparse-unsupported|sparse-invalid', 'pax sparse 0.0')
E('tar-sparse-pax-01', pax((b'GNU.sparse.size', b'8192'), (b'GNU.sparse.numblocks', b'3'), (b'GNU.sparse.map', b'0,512,4096,512,8192,0'), (b'GNU.sparse.name', b'sp')) + ent(b'GNUSparseFile.1/sp', SD) + ent(b'z', HI) + END, {'sp': F(SPX), 'z': F(HI)}, 'sparse-unsupported|sparse-invalid', 'pax sparse 0.1')
A('tar-one-zero-block-at-end', ent(b'a', HI) + b'\0' * 512, {'a': F(HI)}, 'one zero block and nothing after it')
R('gz-not-tar', Raw(gz(b'just text, no tar\n' * 40)), 'not-an-archive|checksum', 'gzip of text')
R('gz-empty-file', Raw(b''), 'not-an-archive|truncated', 'a file of zero bytes')
R('gz-reserved-flag', Raw(gz(T1, flags=0x20)), 'gzip-header', 'a reserved flag bit')
R('gz-truncated-deflate', Raw(gz(T1)[:900]), 'truncated', 'cut in the deflate data')
R('limit-longname-bomb', Raw(gzrun(hdr(b'././@LongLink', size=8 * MIB, ty=b'L', magic=GNU), 8 * MIB, ent(b'f', HI, magic=GNU) + END)), 'ext-too-big|path-too-long|path-nul|path-empty', '8 MiB of long name')
A('limit-exact', b''.join(ent(b'f%d' % i, b'x' * 1024) for i in range(8)) + END, {'f%d' % i: F(b'x' * 1024) for i in range(8)}, 'exactly at every limit', limits=dict(max_file_bytes=1024, max_total_bytes=8192, max_entries=8))
A('zip-unicode-path-extra', z1(b'gr\x81n.txt', HI, host=0, extra=upath(b'gr\x81n.txt', 'grün-\u4f60.txt'.encode())).end(), {'grün-\u4f60.txt': F(HI)}, '0x7075 with the right CRC gives the name (unzip, bsdtar, 7z, zip crate)')
A('zip-utf8-without-flag', z1('\u00e4\u00f6.txt'.encode(), HI).end(), {'\u00e4\u00f6.txt': F(HI)}, 'Unix host, no flag, valid UTF-8: macOS and old Info-ZIP write this')
E('zip-duplicate-directories', z1(b'd/', mode=0o40755).add(b'd/', mode=0o40755).add(b'd/f', HI).end(), {'d': D(), 'd/f': F(HI)}, 'duplicate-name', 'a directory listed twice does no harm; the zip crate\'s consistency check refuses it')
R('zip-symlink-loop', z1(b'a', b'b', mode=LNK).add(b'b', b'./a', mode=LNK).end(), 'symlink-loop', 'loop')
A('zip-dos-host-modes', z1(b'a.txt', HI, host=0, ext=0x20).add(b'd/', host=0, ext=0x10).add(b'x', HI, host=3, mode=0).end(), {'a.txt': F(HI), 'd': D(), 'x': F(HI)}, 'no Unix mode: 0644 and 0755')
R('zip-local-header-missing', z1(b'a.txt', HI, offset=7).end(), 'zip-local|zip-eocd', 'offset does not point at a local header', [], b'a.txt')
def overlap_full(n):
    """Fifield's full overlap: n directory records, one local header and one kernel, all of one name length"""
    k = deflate(b'', (0, 50000)); z = Zip()
    for i in range(n): z.add(b'%03d' % i, b'', 8, comp=k, crc=crc_run(0, 50000), size=50000, local=i == 0, offset=0)
    return z.end()
R('zip-overlap-full', overlap_full(50), 'zip-overlap|zip-mismatch|limit-ratio', 'full overlap bomb', ['CVE-2019-13232'])
R('zip-method-deflate64', z1(b'a.txt', HI, 9, comp=deflate(HI)).end(), 'zip-method', 'method 9', [], b'a.txt')
R('zip-zip64-locator-wrong', z1(b'a.txt', HI).end(z64=dict(loc=3)), 'zip-eocd', 'the locator points elsewhere', ['CVE-2025-8291'])
R('zip-zip64-extra-missing', z1(b'a.txt', HI, size=0xffffffff, csize=0xffffffff, need=45).end(), 'zip-extra|zip-mismatch|limit-file|zip-size|zip-overlap', 'sizes say zip64, the extra field is not there')
R('zip-short-content', z1(b'a.txt', HI, 8, size=60).end(), 'zip-size|truncated|zip-crc', 'inflates to less than it declares', [], b'a.txt')
E('zip-deflate-tail', z1(b'a.txt', HI, 8, comp=deflate(HI) + b'TAIL').end(), {'a.txt': F(HI)}, 'zip-size', 'bytes behind the deflate stream: bsdtar and 7z refuse, the rest ignore them')
R('zip-count-too-big', z1(b'a.txt', HI).end(count=3), 'zip-cd|zip-eocd', 'the end record counts 3, the directory has 1')
R('zip-multi-disk', z1(b'a.txt', HI).end(disk=1), 'zip-multidisk', 'disk number 1')
A('zip-comment', z1(b'a.txt', HI).end(comment=b'plain comment'), {'a.txt': F(HI)}, 'an archive comment')
A('zip-nested-stored', z1(b'inner.zip', z1(b'../x', HI).end()).add(b'a', HI).end(), {'inner.zip': F(z1(b'../x', HI).end()), 'a': F(HI)}, 'a stored zip inside is only data')
for n, v in (('negative', b'-1'), ('hex', b'0x200')):
    R('tar-pax-size-' + n, pax((b'size', v)) + ent(b'x', HI) + END, 'size-invalid|pax-malformed|limit-file', 'pax size %r' % v.decode())
for n, raw in (('zero-length', b'0 path=a\n'), ('no-newline', b'11 path=abcX')):
    R('tar-pax-' + n, pax(raw=raw) + ent(b'f', HI) + END, 'pax-malformed', 'malformed record %r' % raw.decode(), ['RUSTSEC-2026-0066'])
A('tar-pax-newline-before-size', pax((b'SCHILY.xattr.user.a', b'x\ny'), (b'size', b'%d' % len(INNER))) + ent(b'inner.tar', INNER, size=0) + ent(b'after.txt', HI) + END, {'inner.tar': F(INNER), 'after.txt': F(HI)}, 'a value with a newline in front of size: tar 0.4.46 splits on newlines, loses the size and extracts smuggled.txt', ['composefs/tar-rs#452', 'CVE-2025-62518'])
A('tar-pax-record-injection', pax((b'comment', b'x\n' + rec(b'path', b'injected.txt') + b'y')) + ent(b'honest.txt', HI) + END, {'honest.txt': F(HI)}, 'a comment that holds a whole record line: tar 0.4.46 takes it for the path', ['composefs/tar-rs#476'])
# ================================================================== other members of each family
def pz(n): return rec(b'comment', b'x' * n)
B = 1 << 20
# names
R('more-abs-double-slash', ent(b'//etc/x', HI)+END,'path-absolute','')
R('more-abs-pax', pax((b'path',CAN+b'/pwn'))+ent(b'x',HI)+END,'path-absolute','')
R('more-abs-longname', longname(CAN+b'/pwn')+ent(b'x',HI,magic=GNU)+END,'path-absolute','')
R('more-abs-prefix', ent(b'x',HI,prefix=b'/tmp')+END,'path-absolute','')
R('more-dotdot-long', longname(b'a/'*60+b'../../x')+ent(b'x',HI,magic=GNU)+END,'path-dotdot','')
R('more-dotdot-dir', fdir(b'..')+END,'path-dotdot','')
R('more-dotdot-symlink', sym(b'../l',b'x')+END,'path-dotdot','')
R('more-dotdot-hard', ent(b'a',HI)+hard(b'../l',b'a')+END,'path-dotdot','')
R('more-dotdot-dots', ent(b'./../x',HI)+END,'path-dotdot','')
R('more-nul-K', ent(b'a',HI)+longname(b'a\0../../x',b'K')+sym(b'l',b'a',magic=GNU)+END,'path-nul','')
R('more-nul-linkpath', pax((b'linkpath',b'a\0b'))+sym(b'l',b'a')+END,'path-nul|pax-malformed','')
R('more-empty-linkpath', pax((b'linkpath',b''))+sym(b'l',b'a')+END,'symlink-empty|pax-malformed','')
R('more-empty-longname', longname(b'')+ent(b'f',HI,magic=GNU)+END,'path-empty','')
R('more-dot-symlink', sym(b'.',b'x')+END,'path-empty|path-conflict','')
R('more-dot-hard', ent(b'a',HI)+hard(b'./',b'a')+END,'path-empty|path-conflict','')
R('more-fileasdir-later', ent(b'a/b',HI)+ent(b'a',HI)+END,'path-conflict','')
R('more-hardlink-over-dir', ent(b'a',HI)+fdir(b'd/')+hard(b'd',b'a')+END,'path-conflict','')
R('more-long-target', longname(b'x/'*3000,b'K')+sym(b'l',b'x',magic=GNU)+END,'path-too-long|symlink-escape','')
A('more-long-target-ok', longname(b'x/'*2000+b'y',b'K')+sym(b'l',b'x',magic=GNU)+END,{'l':L(b'x/'*2000+b'y')},'')
R('more-deep-dirs', pax((b'path',b'd/'*65))+fdir(b'd')+END,'path-too-deep','')
A('more-dir-noslash', fdir(b'd')+ent(b'd/f',HI)+END,{'d':D(),'d/f':F(HI)},'')
A('more-dup-dir', fdir(b'd/',0o700)+ent(b'd/f',HI)+fdir(b'd/',0o755)+END,{'d':D(0o755),'d/f':F(HI)},'')
A('more-dup-file-via-dot', ent(b'a',b'1')+ent(b'./a',b'2')+END,{'a':F(b'2')},'')
A('more-hard-over-file', ent(b'a',HI)+ent(b'b',b'old')+hard(b'b',b'a')+END,{'a':F(HI),'b':F(HI,hl='a')},'')
A('more-file-over-hard', ent(b'a',HI)+hard(b'b',b'a')+ent(b'b',b'new')+END,{'a':F(HI),'b':F(b'new')},'')
A('more-symlink-over-file', ent(b'a',HI)+ent(b'b',b'old')+sym(b'b',b'a')+END,{'a':F(HI),'b':L(b'a')},'')
A('more-hard-of-hard', ent(b'a',HI)+hard(b'b',b'a')+hard(b'c',b'b')+ent(b'a',b'new')+hard(b'd',b'a')+END,{'a':F(b'new'),'b':F(HI),'c':F(HI,hl='b'),'d':F(b'new',hl='a')},'')
R('more-hard-to-overwritten-by-symlink', ent(b'a',HI)+sym(b'a',b'x')+hard(b'b',b'a')+END,'hardlink-bad-target','')
# symlink
R('more-sym-dotdot-deep', fdir(b'a/')+fdir(b'a/b/')+sym(b'a/b/l',b'x/../../../../y')+END,'symlink-escape','')
R('more-sym-longlink-abs', longname(CAN+b'/'+b'x'*120,b'K')+sym(b'l',b'x',magic=GNU)+END,'symlink-absolute|symlink-escape','')
R('more-sym-pax-abs', pax((b'linkpath',CAN+b'/file'))+sym(b'l',b'ok')+END,'symlink-absolute|symlink-escape','')
R('more-sym-3loop', sym(b'a',b'b')+sym(b'b',b'c')+sym(b'c',b'a')+END,'symlink-loop','')
R('more-sym-loop-dir', fdir(b'd/')+sym(b'd/l',b'../d/l/x')+END,'symlink-loop','')
R('more-sym-chain-50', b''.join(sym(b'l%d'%i,b'l%d'%(i+1)) for i in range(50))+ent(b'l50',HI)+END,'symlink-loop','')
A('more-sym-chain-10', b''.join(sym(b'l%d'%i,b'l%d'%(i+1)) for i in range(10))+ent(b'l10',HI)+END,dict([('l%d'%i,L(b'l%d'%(i+1))) for i in range(10)]+[('l10',F(HI))]),'')
R('more-sym-implied-parent', sym(b'a',b'b')+fdir(b'b/')+fdir(b'a/c/')+END,'parent-symlink','')
R('more-sym-hard-parent', sym(b'l',b'd')+fdir(b'd/')+ent(b'x',HI)+hard(b'l/h',b'x')+END,'parent-symlink','')
R('more-sym-escape-dotdot-root', sym(b'l',b'..')+END,'symlink-escape','')
R('more-sym-escape-thru-file', ent(b'f',HI)+sym(b'l',b'f/../..')+END,'symlink-escape','')
A('more-sym-selfdot', sym(b'l',b'.')+END,{'l':L(b'.')},'')
R('more-sym-size', sym(b'l',b'x',size=5)+END,'size-conflict','')
R('more-sym-paxsize', pax((b'size',b'512'))+sym(b'l',b'x')+ent(b'h',HI)+END,'size-conflict','')
R('more-dir-paxsize', pax((b'size',b'1024'))+fdir(b'd/')+ent(b'h',HI)+ent(b'z',HI)+END,'size-conflict','')
R('more-hard-paxsize', ent(b'a',HI)+pax((b'size',b'512'))+hard(b'd',b'a')+ent(b'h',HI)+END,'size-conflict','')
R('more-label-size', ent(b'L',ty=b'V',magic=GNU,size=512)+ent(b'hidden',HI,magic=GNU)+END,'size-conflict','')
# types
for t in b'346': R('more-special-%c'%t, ent(b's',ty=bytes([t]))+END,'special-file','')
for t in b'DMNAXBQZ8': R('more-unknown-%c'%t, ent(b's',ty=bytes([t]),magic=GNU)+END,'unknown-type','')
R('more-special-socket', ent(b's',ty=b's')+END,'unknown-type|special-file','')
# sizes
R('more-size-plus', ent(b'n',HI,sizef=b'+0000000006\0')+END,'size-invalid','')
R('more-size-minus', ent(b'n',HI,sizef=b'-0000000006\0')+END,'size-invalid','')
R('more-size-8', ent(b'n',HI,sizef=b'00000000008\0')+END,'size-invalid','')
R('more-size-b256-overflow', ent(b'n',HI,sizef=b'\x80'+b'\xff'*11)+END,'size-invalid','')
R('more-size-hex', ent(b'n',HI,sizef=b'0x000000006\0')+END,'size-invalid','')
R('more-size-nulmid', ent(b'n',HI,sizef=b'0000\x0000006\0\0')+END,'size-invalid','')
R('more-size-huge', ent(b'n',HI,sizef=b256(1<<40,12))+END,'limit-file|limit-total','')
R('more-size-huge-octal', ent(b'n',HI,sizef=b'777777777777')+END,'limit-file|limit-total','')
R('more-paxsize-big', pax((b'size',b'99999999999999999999999'))+ent(b'n',HI)+END,'size-invalid|pax-malformed|limit-file','')
R('more-paxsize-i64', pax((b'size',b'9223372036854775807'))+ent(b'n',HI)+END,'size-invalid|pax-malformed|limit-file','')
A('more-paxsize-zero', pax((b'size',b'0'))+ent(b'n',size=512)+ent(b'x',HI)+END,{'n':F(b''),'x':F(HI)},'')
A('more-size-spaces', ent(b'n',HI,sizef=b'          6 ')+END,{'n':F(HI)},'')
A('more-size-b256-big-width', ent(b'n',HI,sizef=b256(6,12))+END,{'n':F(HI)},'')
# pax
for i,r in enumerate([b'10 path=a\nXX', b'11 path=ab\r\n',b'7 path=a\n',b'010 path=ab\n', b' 10 path=a\n', b'+10 path=a\n', b'10\tpath=a\n',b'1 \n',b'2 \n', b'6 abc\n',b'5 =a\n', b'9 path=a\n9 pa\n', b'0x9 path=a\n', b'9 path=a\n\0']):
    R('more-pax-bad-%d'%i, pax(raw=r)+ent(b'f',HI)+END,'pax-malformed|path-empty','%r'%r)
R('more-pax-nul-key', pax(raw=rec(b'pa\0th',b'x'))+ent(b'f',HI)+END,'pax-malformed','')
A('more-pax-eq-in-value', pax((b'path',b'a=b'))+ent(b'f',HI)+END,{'a=b':F(HI)},'')
A('more-pax-vendor-nl', pax((b'SCHILY.xattr.user.a',b'\n20 size=9\n'),(b'path',b'p'))+ent(b'f',HI)+END,{'p':F(HI)},'')
A('more-pax-empty', pax(raw=b'')+ent(b'f',HI)+END,{'f':F(HI)},'')
R('more-pax-too-big', pax(raw=pz(B+10))+ent(b'f',HI)+END,'ext-too-big','')
A('more-pax-1000k', pax(raw=pz(1000000))+ent(b'f',HI)+END,{'f':F(HI)},'')
R('more-g-linkpath', pax((b'linkpath',b'x'),ty=b'g')+sym(b'l',b'y')+END,'pax-global-unsafe','')
R('more-g-sparse', pax((b'GNU.sparse.major',b'1'),ty=b'g')+ent(b'l',HI)+END,'pax-global-unsafe','')
R('more-g-bad', pax(raw=b'99 a=b\n',ty=b'g')+ent(b'l',HI)+END,'pax-malformed','')
A('more-g-mtime', pax((b'mtime',b'1'),(b'uid',b'5'),ty=b'g')+ent(b'l',HI)+END,{'l':F(HI)},'')
R('more-g-big', pax(raw=pz(B+10),ty=b'g')+ent(b'l',HI)+END,'ext-too-big','')
R('more-K-twice', longname(b'a',b'K')+longname(b'b',b'K')+sym(b'l',b'x',magic=GNU)+END,'ext-ambiguous','')
R('more-K-pax', pax((b'linkpath',b'a'))+longname(b'b',b'K')+sym(b'l',b'x',magic=GNU)+END,'ext-ambiguous','')
R('more-L-pax-rev', longname(b'b')+pax((b'path',b'a'))+ent(b'l',HI,magic=GNU)+END,'ext-ambiguous','')
R('more-K-dangling', longname(b'b',b'K')+END,'ext-dangling|truncated','')
R('more-L-eof', longname(b'b'),'ext-dangling|truncated','')
R('more-x-eof', pax((b'path',b'a')),'ext-dangling|truncated','')
R('more-L-trunc', longname(b'b'*200)[:600],'truncated','')
A('more-LK', longname(b'b')+longname(b'c',b'K')+sym(b'l',b'x',magic=GNU)+END,{'b':L(b'c')},'')
A('more-KL', longname(b'c',b'K')+longname(b'b')+sym(b'l',b'x',magic=GNU)+END,{'b':L(b'c')},'')
A('more-L-nonul', longname(b'bb',nul=b'')+ent(b'x',HI,magic=GNU)+END,{'bb':F(HI)},'')
A('more-L-manynul', longname(b'bb',nul=b'\0\0\0')+ent(b'x',HI,magic=GNU)+END,{'bb':F(HI)},'')
def longraw(n, after, ty=b'L'): return hdr(b'././@LongLink',size=len(n),ty=ty,magic=GNU,mode=0)+n+after.ljust(-len(n)%512,b'\0')
R('more-L-goes-on', longraw(b'he',b'llo')+ent(b'x',HI,magic=GNU)+END,'ext-ambiguous','GNU tar reads a long name up to a NUL, others up to its length')
R('more-K-goes-on', longraw(b'he',b'llo',b'K')+sym(b'l',b'x',magic=GNU)+END,'ext-ambiguous','')
A('more-L-stale-padding', longraw(b'he\0',b'llo')+ent(b'x',HI,magic=GNU)+END,{'he':F(HI)},'')
# magics
for n,m in (('gnu-end',b'ustar  \xe6'),('gnu-blank',b'ustar   '),('no-nul',b'ustar000')): R('more-magic-'+n, ent(b'a',HI)+ent(b'x',HI,prefix=b'p',magic=m)+END,'unknown-type','some readers take it for ustar with a prefix, some for v7')
A('more-magic-version', ent(b'x',HI,prefix=b'p',magic=b'ustar\x00xy')+END,{'p':D(),'p/x':F(HI)},'')
# checksums
def cut_checksum(h, end): return h[:154] + end + h[156:]
R('more-checksum-unclosed', ent(b'a',HI)+cut_checksum(ent(b'b',HI),b'\4 ')+END,'checksum','')
R('more-checksum-digit-8', ent(b'a',HI)+cut_checksum(ent(b'b',HI),b'8\0')+END,'checksum','')
A('more-checksum-behind-nul', ent(b'a',HI)+cut_checksum(ent(b'b',HI),b'\x000')+END,{'a':F(HI),'b':F(HI)},'')
# ends
R('more-trunc-padding', (ent(b'a',HI)+END)[:600],'truncated','')
R('more-trunc-midheader1', (ent(b'a',HI)+ent(b'b',HI))[:1030],'truncated','')
A('more-onezero-partial-eof', ent(b'a',HI)+b'\0'*512,{'a':F(HI)},'')
E('more-zero-partial', ent(b'a',HI)+b'\0'*700,{'a':F(HI)},'truncated|tar-eof','')
E('more-zero-300', ent(b'a',HI)+b'\0'*300,{'a':F(HI)},'truncated|tar-eof','')
R('more-lone-zero-first', b'\0'*512+ent(b'a',HI)+END,'tar-eof|not-an-archive','')
R('more-lone-zero-garbage', ent(b'a',HI)+b'\0'*512+b'garbage'*100+b'\0'*324+END,'tar-eof|checksum','')
A('more-end-then-archive', ent(b'a',HI)+END+ent(b'hidden',HI)+END,{'a':F(HI)},'')
R('more-gz-garbage-zero', Raw(gz(T1)+b'\0'*10+b'x'),'gzip-trailing','')
R('more-gz-second-bad-crc', Raw(gz(T1[:700])+gz(T1[700:],crc=1)),'gzip-crc','')
R('more-gz-isize', Raw(gz(T1,isize=5)),'gzip-crc','')
R('more-gz-fhcrc', Raw(gz(T1,hcrc=1)),'gzip-header|gzip-crc','')
R('more-gz-cm', Raw(gz(T1,cm=7)),'gzip-header','')
R('more-gz-hdr-cut', Raw(gz(T1)[:5]),'truncated|gzip-header','')
R('more-gz-second-trunc', Raw(gz(T1)+gz(b'')[:12]),'truncated','')
R('more-gz-second-hdr', Raw(gz(T1)+b'\x1f\x8b\x07'+b'\0'*20),'gzip-trailing|gzip-header','')
R('more-gz-end-bad-data', Raw(gz(T1,body=stored(T1,False)+b'\xff\xff\xff')),'gzip-data|truncated','')
R('more-gz-in-gz', Raw(gz(gz(T1))),'not-an-archive|checksum','')
R('more-tar-in-type-targz', Raw(T1),'not-an-archive|gzip-header','')
A('more-gz-empty-tar', Raw(gz(END)),{},'')
R('more-gz-nothing', Raw(gz(b'')),'not-an-archive|truncated','')
case('more-plain-tar', Raw(T1), 'accept', {'a':F(HI),'b':F(b'B'*700)}, kind='tar')
case('more-plain-gz-as-tar', Raw(gz(T1)), 'reject', kinds=['not-an-archive','checksum','truncated'], kind='tar')
case('more-plain-empty', Raw(b''), 'reject', kinds=['not-an-archive','truncated'], kind='tar')
# limits
R('more-limit-dirs', b''.join(fdir(b'd%d/'%i) for i in range(150))+END,'limit-entries','',limits=dict(max_entries=100))
R('more-limit-links', ent(b'f',HI)+b''.join(hard(b'd%d'%i,b'f') for i in range(150))+END,'limit-entries','',limits=dict(max_entries=100))
R('more-limit-implied', b''.join(ent(b'a%d/b/c/d/e/f/g'%i) for i in range(90))+END,'limit-entries','',limits=dict(max_entries=100))
A('more-limit-implied-ok', b''.join(ent(b'x/y/a%d'%i,HI) for i in range(8))+END,dict([('x',D()),('x/y',D())]+[('x/y/a%d'%i,F(HI)) for i in range(8)]),'',limits=dict(max_entries=8))
R('more-limit-dup-total', b''.join(ent(b'f',b'x'*1000) for i in range(20))+END,'limit-total','',limits=dict(max_total_bytes=8192))
R('more-limit-after-end', Raw(gzrun(ent(b'a',HI)+END,40*MIB)),'limit-ratio|limit-total','',limits=dict(max_ratio=100,ratio_floor_bytes=1<<20))
R('more-limit-meta', Raw(gzrun(hdr(b'x',size=8*MIB,ty=b'x'),8*MIB,ent(b'f',HI)+END)),'ext-too-big|pax-malformed|limit-ratio','')
R('more-limit-sparse-total', oldsparse([(0,512),(4096,512),(30<<20,0)],30<<20,SD)+oldsparse([(0,512),(4096,512),(30<<20,0)],30<<20,SD,name=b's2')+oldsparse([(0,512),(4096,512),(30<<20,0)],30<<20,SD,name=b's3')+END,'limit-total|sparse-unsupported|limit-ratio','')
R('more-path-limit', pax((b'path',b'a'*100))+ent(b'f',HI)+END,'path-too-long','',limits=dict(max_component_bytes=50))
R('more-path-limit2', pax((b'path',b'a/'*60+b'a'))+ent(b'f',HI)+END,'path-too-long','',limits=dict(max_path_bytes=100))
# sparse
E('more-sparse-ext', oldsparse([(0,512),(1024,512),(2048,512),(3072,512)],8192,b'Q'*512*6,ext=1)[:512]+(b''.join(octal(o,12)+octal(n,12) for o,n in [(4096,512),(5120,512)])).ljust(504,b'\0')+b'\0'*8+b'Q'*512*6+ent(b'z',HI,magic=GNU)+END,
 {'sp':F(b''.join((b'Q'*512+b'\0'*512) for _ in range(6))+b'\0'*2048),'z':F(HI)},'sparse-unsupported','')
R('more-sparse-neg', hdr(b'sp',size=1024,ty=b'S',magic=GNU,patch=[(386,b256(-1,12)+octal(512,12)),(483,octal(8192,12))])+SD+END,'sparse-invalid|sparse-unsupported','')
R('more-sparse-short', oldsparse([(0,512),(4096,512)],8192,SD,size=600)+END,'sparse-invalid|sparse-unsupported','')
R('more-sparse-beyond', oldsparse([(0,512),(8000,512)],8192,SD)+END,'sparse-invalid|sparse-unsupported','')
R('more-sparse-10-count', pax((b'GNU.sparse.major',b'1'),(b'GNU.sparse.minor',b'0'),(b'GNU.sparse.name',b'sp'),(b'GNU.sparse.realsize',b'8192'))+ent(b'x',pad(b'1000000000\n0\n512\n')+b'A'*512)+END,'sparse-invalid|sparse-unsupported|truncated','')
R('more-sparse-2x', pax((b'GNU.sparse.major',b'2'),(b'GNU.sparse.minor',b'0'),(b'GNU.sparse.name',b'sp'),(b'GNU.sparse.realsize',b'8192'))+ent(b'x',HI)+END,'sparse-unsupported','')
R('more-sparse-name-abs', pax((b'GNU.sparse.major',b'1'),(b'GNU.sparse.minor',b'0'),(b'GNU.sparse.name',CAN+b'/x'),(b'GNU.sparse.realsize',b'512'))+ent(b'safe',pad(b'1\n0\n512\n')+b'A'*512)+END,'path-absolute|sparse-unsupported|sparse-invalid','')
R('more-sparse-01-odd', pax((b'GNU.sparse.size',b'8192'),(b'GNU.sparse.map',b'0,512,4096'),(b'GNU.sparse.name',b'sp'))+ent(b'x',SD)+END,'sparse-invalid|sparse-unsupported','')
E('more-sparse-empty', pax((b'GNU.sparse.major',b'1'),(b'GNU.sparse.minor',b'0'),(b'GNU.sparse.name',b'sp'),(b'GNU.sparse.realsize',b'8192'))+ent(b'x',pad(b'0\n'))+ent(b'z',HI)+END,{'sp':F(b'\0'*8192),'z':F(HI)},'sparse-unsupported','')
A('more-sparse-odd-piece', oldsparse([(64,5),(181,8),(189,0)],189,b'A'*13)+ent(b'z',HI,magic=GNU)+END,{'sp':F(b'\0'*64+b'A'*5+b'\0'*112+b'A'*8),'z':F(HI)},'GNU tar alone looks for each piece at the start of a block')
A('more-sparse-no-end', oldsparse([(0,512)],8192,SD[:512])+ent(b'z',HI,magic=GNU)+END,{'sp':F(SD[:512]+b'\0'*7680),'z':F(HI)},'GNU tar alone ends the file with its last piece')
A('more-sparse-size-of-file', ent(b'f',HI,magic=GNU,patch=[(483,octal(3,12))])+ent(b'z',HI)+END,{'f':F(HI),'z':F(HI)},'bsdtar alone takes the real size of a GNU header for the size of a plain file; some cameras keep times there')
A('more-sparse-map-of-file', ent(b'f',HI,magic=GNU,patch=[(386,octal(0,12)+octal(3,12))])+ent(b'z',HI)+END,{'f':F(HI),'z':F(HI)},'')
A('more-sparse-fields-ustar', ent(b'f',HI,patch=[(345,b'd/'+b'p'*100)])+END,{'d':D(),'d/'+'p'*100:D(),'d/'+'p'*100+'/f':F(HI)},'there they are the end of a prefix')
A('more-modes-junk', ent(b'f',HI,modef=b'zzzzzzz\0')+END,{'f':F(HI)},'')
A('more-mode-spaces', ent(b'f',HI,modef=b'   755 \0')+END,{'f':F(HI,0o755)},'')
A('more-mode-filetype', ent(b'f',HI,modef=b'100755 \0')+END,{'f':F(HI,0o755)},'')
A('more-v7-typenul-prefix', ent(b'a',HI,ty=b'\0')+END,{'a':F(HI)},'')
R('more-header-zero-name-pfx', ent(b'',HI,prefix=b'p')+END,'path-empty|type-conflict','')
# zip
R('zip-more-abs-bs', z1(b'\\etc\\x',HI,host=0).end(),'path-absolute','')
R('zip-more-drive', z1(b'C:\\x',HI,host=0).end(),'path-absolute','')
R('zip-more-dotdot-7075', z1(b'ok.txt',HI,extra=upath(b'ok.txt',b'../x')).end(),'path-dotdot','')
A('zip-more-7075-badcrc', z1(b'ok.txt',HI,extra=upath(b'ok.txt',b'../x',crc=5)).end(),{'ok.txt':F(HI)},'')
R('zip-more-7075-over-nul', z1(b'a/\0b',HI,extra=upath(b'a/\0b',b'ok.txt')).end(),'path-nul','readers that end the name at the NUL do not take the Unicode name, and see another one')
R('zip-more-7075-bit11', z1(b'ok.txt',HI,flags=0x800,extra=upath(b'ok.txt',b'other')).end(),'name-encoding|zip-mismatch','')
R('zip-more-7075-badutf', z1(b'ok.txt',HI,extra=upath(b'ok.txt',b'\xff')).end(),'name-encoding','')
R('zip-more-unix-bs-dotdot', z1(b'a\\..\\..\\x',HI).end(),'path-dotdot','')
R('zip-more-dup-spelling', z1(b'd/a',HI).add(b'd//a',HI).end(),'duplicate-name','')
R('zip-more-dup-dot', z1(b'a',HI).add(b'./a',HI).end(),'duplicate-name','')
R('zip-more-dup-7075', z1(b'a',HI).add(b'b',HI,extra=upath(b'b',b'a')).end(),'duplicate-name','')
R('zip-more-dup-link', z1(b'a',HI).add(b'a',b'x',mode=LNK).end(),'duplicate-name|path-conflict','')
R('zip-more-nul-dir', z1(b'a\0/',mode=0o40755).end(),'path-nul','')
R('zip-more-deep', z1(b'd/'*70+b'f',HI).end(),'path-too-deep','')
R('zip-more-symlink-dotdot', z1(b'l',b'../x',mode=LNK).end(),'symlink-escape','')
R('zip-more-symlink-empty', z1(b'l',b'',mode=LNK).end(),'symlink-empty','')
R('zip-more-symlink-nul', z1(b'l',b'a\0b',mode=LNK).end(),'path-nul','')
R('zip-more-symlink-long', z1(b'l',b'x/'*3000,mode=LNK).end(),'path-too-long','')
R('zip-more-symlink-slash', z1(b'l/',b'x',mode=LNK).end(),'type-conflict','')
R('zip-more-socket', z1(b'p',b'',mode=0o140644).end(),'special-file','')
R('zip-more-blk', z1(b'p',b'',mode=0o060644).end(),'special-file','')
R('zip-more-chr', z1(b'p',b'',mode=0o020644).end(),'special-file','')
R('zip-more-dir-compressed', z1(b'd/',b'data',8,mode=0o40755).end(),'type-conflict','')
R('zip-more-local-crc', z1(b'a',HI,lcrc=5).end(),'zip-mismatch','')
R('zip-more-local-flags', z1(b'a',HI,lflags=0x800).end(),'zip-mismatch','')
R('zip-more-local-flags-enc', z1(b'a',HI,lflags=1).end(),'zip-mismatch|zip-encrypted','')
R('zip-more-local-descflag', z1(b'a',HI,lflags=8).end(),'zip-mismatch','')
R('zip-more-local-csize', z1(b'a',HI,8,lcsize=3).end(),'zip-mismatch','')
R('zip-more-unlisted-first', z1(b'h',HI,list_it=False).add(b'a',HI).end(),'zip-unlisted','')
R('zip-more-unlisted-last', z1(b'a',HI).add(b'h',HI,list_it=False).end(),'zip-unlisted','')
R('zip-more-count-small', z1(b'a',HI).add(b'b',HI).end(count=1),'zip-cd|zip-eocd|zip-unlisted','')
R('zip-more-cdsize', z1(b'a',HI).end(cdsize=5),'zip-cd|zip-eocd|zip-prefix','')
R('zip-more-cdoff', z1(b'a',HI).end(cdoff=3),'zip-cd|zip-eocd|zip-prefix','')
R('zip-more-cdoff-big', z1(b'a',HI).end(cdoff=0xfffffff0),'zip-cd|zip-eocd|zip-prefix','')
R('zip-more-clen', z1(b'a',HI).end(comment=b'abc',clen=1),'zip-trailing|zip-eocd|zip-ambiguous','')
R('zip-more-clen-long', z1(b'a',HI).end(comment=b'abc',clen=10),'zip-trailing|zip-eocd|truncated','')
R('zip-more-extra-bad', z1(b'a',HI,extra=b'\1\2\9\0').end(),'zip-extra','')
R('zip-more-extra-cut', z1(b'a',HI,cextra=b'\1\2\3').end(),'zip-extra|zip-mismatch','')
R('zip-more-enc-bit6', z1(b'a',HI,flags=0x41).end(),'zip-encrypted','')
R('zip-more-enc-bit13', z1(b'a',HI,flags=0x2000).end(),'zip-encrypted','')
R('zip-more-m99', z1(b'a',HI,99).end(),'zip-encrypted|zip-method','')
for m in (1,6,9,12,14,93,95,98): R('zip-more-m%d'%m, z1(b'a',HI,m,comp=HI).end(),'zip-method','')
R('zip-more-stored-size', z1(b'a',HI,size=7).end(),'zip-size','')
R('zip-more-short-stored-size', z1(b'a',HI,size=3).end(),'zip-size','')
R('zip-more-deflate-cut', z1(b'a',HI*20,8,comp=deflate(HI*20)[:-8]).end(),'zip-data|truncated|zip-size','')
R('zip-more-deflate-bad', z1(b'a',HI,8,comp=b'\xff\xff\xff').end(),'zip-data','')
R('zip-more-zero-but-data', z1(b'a',b'',8,comp=deflate(b'zzz')).end(),'zip-size','')
R('zip-more-dir-but-data', z1(b'd/',b'',8,mode=0o40755,comp=deflate(b'zzz')).end(),'zip-size|type-conflict','')
A('zip-more-dir-deflated-empty', z1(b'd/',b'',8,mode=0o40755).end(),{'d':D()},'')
A('zip-more-desc64', z1(b'a',HI,8,flags=8,desc=b'PK\7\x08'+struct.pack('<IQQ',zlib.crc32(HI),len(deflate(HI)),6)).end(),{'a':F(HI)},'')
A('zip-more-desc-stored', z1(b'a',HI,0,flags=8).end(),{'a':F(HI)},'')
R('zip-more-desc-missing', z1(b'a',HI,8,flags=8,desc=b'').end(),'zip-mismatch','')
A('zip-more-desc-localfull', z1(b'a',HI,8,flags=8,lcrc=zlib.crc32(HI),lsize=6,lcsize=len(deflate(HI))).end(),{'a':F(HI)},'')
R('zip-more-desc-local-differs', z1(b'a',HI,8,flags=8,lsize=9).end(),'zip-mismatch','')
R('zip-more-disk-entry', z1(b'a',HI,disk=1).end(),'zip-multidisk','')
R('zip-more-z64-size-disagree', z1(b'a',HI).end(z64=dict(sz=5,e32=(1,0xffffffff,0xffffffff))),'zip-eocd|zip-cd|zip-prefix','')
R('zip-more-z64-off-disagree', z1(b'a',HI).end(z64=dict(off=5)),'zip-eocd|zip-cd|zip-prefix','')
R('zip-more-z64-disks', z1(b'a',HI).end(z64=dict(disks=2)),'zip-multidisk|zip-eocd','')
A('zip-more-z64-nosentinel', z1(b'a',HI).end(z64=dict(e32=(1,len(z1(b'a',HI).cd[0]),len(z1(b'a',HI).b)))),{'a':F(HI)},'')
R('zip-more-z64-missing-record', z1(b'a',HI).end(z64={}).replace(b'PK\6\6',b'PK\6\5'),'zip-eocd','')
R('zip-more-sentinel-no-locator', z1(b'a',HI).end(cdoff=0xffffffff),'zip-eocd|zip-cd|zip-prefix','')
R('zip-more-limit-entries', (lambda z:[z.add(b'%d'%i) for i in range(150)] and z)(Zip()).end(),'limit-entries','',limits=dict(max_entries=100))
R('zip-more-limit-file', z1(b'a',b'x'*5000).end(),'limit-file','',limits=dict(max_file_bytes=1000))
R('zip-more-limit-file-lie', z1(b'a',b'x'*5000,8,size=10).end(),'zip-size|zip-mismatch','',limits=dict(max_file_bytes=1000))
A('zip-more-limit-exact', Zip().add(b'a',b'x'*1024).add(b'b',b'y'*1024).end(),{'a':F(b'x'*1024),'b':F(b'y'*1024)},'',limits=dict(max_entries=2,max_total_bytes=2048,max_file_bytes=1024))
R('zip-more-bomb-many', (lambda z:[z.add(b'%d'%i,b'',8,comp=deflate(b'',(0,4*MIB)),size=4*MIB,crc=crc_run(0,4*MIB)) for i in range(12)] and z)(Zip()).end(),'limit-ratio','',limits=dict(max_ratio=100))
A('zip-more-macos', z1('é.txt'.encode(),HI,host=19,ext=0o100600<<16).end(),{'é.txt':F(HI,0o600)},'')
A('zip-more-file-no-type', z1(b'x',HI,mode=0o755).end(),{'x':F(HI,0o755)},'')
R('zip-more-dir-mode-no-slash', z1(b'x',HI,mode=0o40755).end(),'type-conflict','')
E('zip-more-reg-mode-slash', z1(b'x/',b'',mode=0o100755).end(),{'x':D()},'type-conflict','')
R('zip-more-parent-symlink', z1(b'd/',mode=0o40755).add(b'l',b'd',mode=LNK).add(b'l/f',HI).end(),'parent-symlink|path-conflict','')
R('zip-more-parent-symlink-after', z1(b'l/f',HI).add(b'l',b'd',mode=LNK).end(),'parent-symlink|path-conflict','')
R('zip-more-trailing-zip', z1(b'a',HI).end(after=z1(b'b',HI).end()),'zip-prefix|zip-ambiguous|zip-unlisted|zip-eocd','')
R('zip-more-eocd-in-comment-noexact', z1(b'a',HI).end(comment=z1(b'b',HI).end()+b'junk'),'zip-ambiguous|zip-eocd','')
R('zip-more-empty-prefix', b'junkjunk'+Zip().end(),'zip-prefix|zip-eocd','')
R('zip-more-not', b'hello world this is no zip at all, really not'*3,'not-an-archive|zip-eocd','')
R('zip-more-zero', b'','not-an-archive|zip-eocd|truncated','')
R('zip-more-nuls', b'\0'*1000,'not-an-archive|zip-eocd','')
R('zip-more-dos-directory', z1(b'd',host=0,ext=0x10).add(b'd/f',HI,host=0,ext=0x20).end(),'path-conflict','an attribute says directory, the name does not')
R('zip-more-dos-directory-ntfs', z1(b'a',HI,host=10,ext=0x30).end(),'path-conflict','')
R('zip-more-dos-label', z1(b'LABEL',host=0,ext=0x08).end(),'unknown-type','unzip leaves the name of a volume out')
A('zip-more-dos-attributes', z1(b'a',HI,host=0,ext=0x27).add(b'd\\',host=0,ext=0x10).add(b'e/',host=11,ext=0).add(b'u',HI,mode=0o100644,ext=0o100644<<16|0x10).end(),{'a':F(HI),'d':D(),'e':D(),'u':F(HI)},'hidden, of the system and read-only are files; Unix has its mode')
R('more-sparse-ustar', oldsparse([(0,512),(4096,512)],8192,SD,magic=b'ustar\x0000')+END,'sparse-unsupported','to GNU tar this is a file of 1,024 bytes')
R('more-sparse-star', oldsparse([(0,512),(4096,512)],8192,SD,magic=b'ustar\x0000',star=True)+END,'sparse-unsupported','')
R('more-sparse-v7', oldsparse([(0,512),(4096,512)],8192,SD,magic=V7)+END,'unknown-type|sparse-unsupported','')
R('more-sparse-ratio', b''.join(oldsparse([(0,512),((1<<20)*30,0)],(1<<20)*30,b'A'*512,name=b's%d'%i) for i in range(2))+END,'limit-ratio','holes count as what comes out')
A('more-sparse-below-ratio', oldsparse([(0,512),((1<<20)*8,0)],(1<<20)*8,b'A'*512)+END,{'sp':F(b'A'*512+bytes((1<<20)*8-512))},'')
R('zip-more-unicode-only-listed', z1(b'a',HI,cextra=upath(b'a',b'b')).end(),'zip-mismatch','one name by the local header and another by the directory')
if __name__ == '__main__': main()
