# Writes the small files that the tests read: tests/good/ (well-formed, as torch.save would write them) and tests/hostile/
# (each with one thing wrong, named after it). Needs Python 3 alone; the same files come out every time.
# Run: python3 crates/weights/tests/generate.py
import io, json, pathlib, struct, zipfile, zlib

here = pathlib.Path(__file__).parent
files = {}

# --- pickles, opcode by opcode ---
PROTO, STOP, MARK, NONE, FALSE = b"\x80\x02", b".", b"(", b"N", b"\x89"
def text(s): return b"X" + struct.pack("<I", len(s.encode())) + s.encode()
def glob(module, name): return b"c" + module.encode() + b"\n" + name.encode() + b"\n"
def number(n):
    if 0 <= n < 256: return b"K" + bytes([n])
    size = n.bit_length() // 8 + 1
    return b"\x8a" + bytes([size]) + n.to_bytes(size, "little", signed=True)
def tup(*items): return MARK + b"".join(items) + b"t"
def call(function, *arguments): return function + tup(*arguments) + b"R"
def dictionary(**items): return b"}" + MARK + b"".join(text(k) + v for k, v in items.items()) + b"u"
ORDERED = glob("collections", "OrderedDict") + b")R"
def ordered(items): return ORDERED + MARK + b"".join(text(k) + v for k, v in items) + b"u"
def storage(key, count, kind="FloatStorage", module="torch"):
    return tup(text("storage"), glob(module, kind), text(key), text("cpu"), number(count)) + b"Q"
def numbers(ns): return tup(*map(number, ns))
def row_major(shape):
    strides, step = [], 1
    for dim in reversed(shape): strides, step = [step] + strides, step * dim
    return strides
def tensor(key="0", count=4, shape=(4,), strides=None, offset=0, kind="FloatStorage"):
    strides = row_major(shape) if strides is None else strides
    return call(glob("torch._utils", "_rebuild_tensor_v2"), storage(key, count, kind), number(offset),
                numbers(shape), numbers(strides), FALSE, ORDERED)
def whole(body): return PROTO + body + STOP
def state(value): return whole(ordered([("weight", value)]))

# --- zip archives ---
FOUR = struct.pack("<4f", 1, 2, 3, 4)
def archive(pickle, data={"0": FOUR}, extra={}, compress=(), root="archive/"):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as z:
        def put(name, content):
            info = zipfile.ZipInfo(root + name, (1980, 1, 1, 0, 0, 0))
            info.compress_type = zipfile.ZIP_DEFLATED if name in compress else zipfile.ZIP_STORED
            z.writestr(info, content)
        if pickle is not None: put("data.pkl", pickle)
        for key, content in data.items(): put("data/" + key, content)
        for name, content in {"version": b"3\n", **extra}.items(): put(name, content)
    return out.getvalue()
def patch_entry(data, name, offset_local, offset_central, value, form="<I"):
    """Overwrites a field of one entry's local and central header; the fields are the same, 2 bytes further in the latter."""
    data, name = bytearray(data), name.encode()
    for magic, name_at, offset in ((b"PK\x03\x04", 30, offset_local), (b"PK\x01\x02", 46, offset_central)):
        at = -1
        while (at := data.find(magic, at + 1)) >= 0:
            if data[at + name_at:at + name_at + len(name)] == name: struct.pack_into(form, data, at + offset, value)
    return bytes(data)

# --- safetensors ---
def safe(header, data=b"", length=None):
    header = header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode()
    return struct.pack("<Q", len(header) if length is None else length) + header + data
def info(dtype="F32", shape=(4,), offsets=(0, 16)): return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}

# === good ===
G = "good/"
halves = struct.pack("<4e", 1, 2, 3, 4)
brains = struct.pack("<4H", 0x3f80, 0x4000, 0x4040, 0x4080)
files[G + "plain.pth"] = archive(state(tensor()))
# Before PyTorch 1.6: no archive, a storage has a sixth part, and the elements follow the pickles.
def old_storage(key="0", count=4, kind="FloatStorage", whole_of=NONE):
    return tup(text("storage"), glob("torch", kind), text(key), text("cpu"), number(count), whole_of) + b"Q"
def old_tensor(storage, shape=(4,), offset=0):
    return call(glob("torch._utils", "_rebuild_tensor_v2"), storage, number(offset), numbers(shape),
                numbers(row_major(shape)), FALSE, ORDERED)
def bare(tensors=(("weight", old_tensor(old_storage())),), keys=("0",), data=struct.pack("<q", 4) + FOUR, little=b"\x88",
         version=1001):
    return (whole(number(0x1950a86a20f9469cfc6c)) + whole(number(version)) + whole(dictionary(little_endian=little)) +
            whole(ordered(tensors)) + whole(b"]" + MARK + b"".join(map(text, keys)) + b"e") + data)
files[G + "bare.pth"] = bare()
files[G + "bare_two_storages.pth"] = bare(
    (("b", old_tensor(old_storage("9", 2, "HalfStorage"), (2,))), ("a", old_tensor(old_storage("10"), (3,), 1))), ("10", "9"),
    struct.pack("<q", 4) + FOUR + struct.pack("<q2e", 2, 0.5, -1))
files[G + "deflated.pth"] = archive(state(tensor(shape=(2, 2), strides=(1, 2))), compress=("data.pkl", "data/0"))
files[G + "no_folder.pth"] = archive(state(tensor()), root="")
files[G + "little_endian.pth"] = archive(state(tensor()), extra={"byteorder": b"little"})
files[G + "shared_storage.pth"] = archive(whole(ordered([
    ("transposed", tensor(shape=(2, 2), strides=(1, 2))), ("tail", tensor(shape=(2,), offset=2)),
    ("scalar", tensor(shape=(), offset=3)), ("empty", tensor(shape=(0, 3)))])))
files[G + "types.pth"] = archive(whole(ordered([
    ("half", tensor("0", kind="HalfStorage")), ("brain", tensor("1", kind="BFloat16Storage")),
    ("long", tensor("2", kind="LongStorage")), ("byte", tensor("3", kind="ByteStorage")),
    ("double", tensor("4", kind="DoubleStorage"))])),
    {"0": halves, "1": brains, "2": struct.pack("<4q", 1, 2, 3, 4), "3": bytes([1, 2, 3, 4]), "4": struct.pack("<4d", 1, 2, 3, 4)})
files[G + "wrapped.pth"] = archive(whole(dictionary(
    epoch=number(7), params=ordered([("weight", tensor(shape=(3,)))]),
    params_ema=ordered([("weight", tensor()), ("step", number(3))]), lr=b"G" + struct.pack(">d", 0.1))))
files[G + "state_dict_data_parallel.pth"] = archive(whole(dictionary(state_dict=ordered([
    ("module.a", tensor()), ("module.b", tensor(shape=(2,)))]), best=NONE)))
files[G + "module_on_some.pth"] = archive(whole(ordered([("module.a", tensor()), ("b", tensor())])))
files[G + "parameter.pth"] = archive(state(call(glob("torch._utils", "_rebuild_parameter"), tensor(), b"\x88", ORDERED)))
files[G + "untyped_v3.pth"] = archive(state(call(
    glob("torch._utils", "_rebuild_tensor_v3"), storage("0", 16, "UntypedStorage", "torch.storage"), number(0),
    numbers((4,)), numbers((1,)), FALSE, ORDERED, glob("torch", "float32"), NONE)))
# Protocol 4: FRAME, SHORT_BINUNICODE, MEMOIZE, STACK_GLOBAL; torch.Size; BUILD of the dict's attributes.
short = lambda s: b"\x8c" + bytes([len(s)]) + s.encode()
stack_global = lambda m, n: short(m) + b"\x94" + short(n) + b"\x94\x93\x94"
files[G + "protocol_4.pth"] = archive(
    b"\x80\x04\x95" + struct.pack("<Q", 0) + stack_global("collections", "OrderedDict") + b")R\x94" + short("weight") + b"\x94"
    + stack_global("torch._utils", "_rebuild_tensor_v2") + MARK + storage("0", 4) + b"K\x00"
    + stack_global("torch", "Size") + b"K\x04\x85\x85R" + b"K\x01\x85" + FALSE + b"h\x02)R" + b"tR" + b"s"
    + b"}" + short("_metadata") + b"h\x02)Rs" + b"b.")

# === hostile: not weights ===
H = "hostile/"
files[H + "empty.safetensors"] = b""
files[H + "text.pth"] = b"404: Not Found"
files[H + "html_page.pth"] = b"<!DOCTYPE html>\n<html><body>Please log in</body></html>\n"
files[H + "git_lfs_pointer.safetensors"] = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1811277\n"
files[H + "png_image.pth"] = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
files[H + "noise.bin"] = bytes((i * 73 + 41) % 251 for i in range(256))
files[H + "gguf.gguf"] = b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 1 << 60)
files[H + "bare_pickle_os_system.pth"] = whole(call(glob("os", "system"), text("echo owned")))
files[H + "zip_without_pickle.pth"] = archive(None)

# === hostile: safetensors ===
good = safe({"a": info()}, FOUR)
files[H + "length_truncated.safetensors"] = good[:8]
files[H + "header_truncated.safetensors"] = good[:30]
files[H + "header_length_huge.safetensors"] = safe({"a": info()}, FOUR, length=1 << 47)
files[H + "header_length_past_end.safetensors"] = safe({"a": info()}, FOUR, length=1 << 20)
files[H + "header_not_utf8.safetensors"] = safe(b'{"\xff\xfe":1}')
files[H + "header_not_json.safetensors"] = safe(b"{a: 1}")
files[H + "header_nested_deep.safetensors"] = safe(b'{"a":' + b"[" * 3000)
files[H + "data_truncated.safetensors"] = good[:-1]
files[H + "data_trailing.safetensors"] = good + b"\0"
files[H + "offsets_overlap.safetensors"] = safe({"a": info(), "b": info(offsets=(8, 24))}, FOUR * 2)
files[H + "offsets_gap.safetensors"] = safe({"a": info(), "b": info(offsets=(20, 36))}, FOUR * 3)
files[H + "offsets_reversed.safetensors"] = safe({"a": info(offsets=(16, 0))}, FOUR)
files[H + "offsets_past_end.safetensors"] = safe({"a": info(shape=(1 << 40,), offsets=(0, 1 << 42))}, FOUR)
eighth = (1 << 61) - 1
files[H + "offsets_sum_overflows.safetensors"] = safe(
    {str(i): info("U8", (eighth,), (i * eighth, (i + 1) * eighth)) for i in range(8)})
files[H + "offsets_beyond_64_bits.safetensors"] = safe({"a": info(offsets=(0, 1 << 65))}, FOUR)
files[H + "shape_overflows.safetensors"] = safe({"a": info(shape=(1 << 62, 8))}, FOUR)
files[H + "shape_negative.safetensors"] = safe({"a": info(shape=(-4,))}, FOUR)
files[H + "shape_disagrees.safetensors"] = safe({"a": info(shape=(3,))}, FOUR)
files[H + "shape_fraction.safetensors"] = safe({"a": info(shape=(4.5,))}, FOUR)
files[H + "name_twice.safetensors"] = safe(
    b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},"a":{"dtype":"F32","shape":[4],"data_offsets":[16,32]}}', FOUR * 2)
files[H + "dtype_unknown.safetensors"] = safe({"a": info("F128")}, FOUR)
files[H + "metadata_not_text.safetensors"] = safe({"__metadata__": {"a": 1}, "a": info()}, FOUR)
files[H + "float8_asked_for.safetensors"] = safe({"a": info("F8_E4M3", (4,), (0, 4))}, FOUR[:4])
files[H + "nan_weight.safetensors"] = safe({"a": info()}, struct.pack("<4f", 1, 2, float("nan"), 4))

files[H + "name_with_escape_codes.safetensors"] = safe({"a\x1b[2J": info(offsets=(1, 17))}, FOUR)

# === hostile: the zip around a checkpoint ===
plain = archive(state(tensor()))
files[H + "zip_truncated.pth"] = plain[:len(plain) // 2]
files[H + "zip_empty.pth"] = archive(None, {}, {})[-22:-22] + b"PK\x05\x06" + bytes(18)
files[H + "zip_directory_garbled.pth"] = plain.replace(b"PK\x01\x02", b"PK\x09\x09")
files[H + "zip_local_header_garbled.pth"] = plain.replace(b"PK\x03\x04", b"PK\x08\x08", 2).replace(b"PK\x08\x08", b"PK\x03\x04", 1)
files[H + "zip_storage_missing.pth"] = archive(state(tensor()), {})
files[H + "zip_storage_key_escapes.pth"] = archive(state(tensor("../../../etc/passwd")))
files[H + "zip_storage_key_escape_codes.pth"] = archive(state(tensor("\x1b[2J")))
files[H + "zip_crc_of_pickle.pth"] = patch_entry(plain, "archive/data.pkl", 14, 16, 0xdeadbeef)
files[H + "zip_crc_of_storage.pth"] = patch_entry(plain, "archive/data/0", 14, 16, 0xdeadbeef)
files[H + "zip_size_past_end.pth"] = patch_entry(patch_entry(plain, "archive/data/0", 18, 20, 1 << 30), "archive/data/0", 22, 24, 1 << 30)
files[H + "zip_sizes_differ.pth"] = patch_entry(plain, "archive/data/0", 22, 24, 1 << 30)
files[H + "zip_encrypted.pth"] = patch_entry(plain, "archive/data/0", 6, 8, 1, "<H")
files[H + "zip_unknown_compression.pth"] = patch_entry(plain, "archive/data/0", 8, 10, 93, "<H")
packed = archive(state(tensor()), compress=("data.pkl", "data/0"))
files[H + "zip_bomb_claims_4_gib.pth"] = patch_entry(packed, "archive/data/0", 22, 24, 0xfffffff0)
files[H + "zip_bomb_pickle_100_mib.pth"] = patch_entry(
    archive(bytes(3 << 20), compress=("data.pkl",)), "archive/data.pkl", 22, 24, 100 << 20)
files[H + "zip_bomb_holds_more_than_claimed.pth"] = patch_entry(
    archive(state(tensor()), {"0": bytes(3 << 20)}, compress=("data/0",)), "archive/data/0", 22, 24, 16)
files[H + "zip_deflate_garbled.pth"] = patch_entry(plain, "archive/data/0", 8, 10, 8, "<H")
twice = archive(state(tensor()), {"0": FOUR, "1": FOUR})
files[H + "zip_name_twice.pth"] = twice.replace(b"archive/data/1", b"archive/data/0")
files[H + "zip_torchscript.pth"] = archive(state(tensor()), extra={"constants.pkl": b"\x80\x02).", "code/net.py": b""})
files[H + "zip_big_endian.pth"] = archive(state(tensor()), extra={"byteorder": b"big"})
files[H + "zip_byteorder_nonsense.pth"] = archive(state(tensor()), extra={"byteorder": b"middle"})

# === hostile: pickles that want code run ===
def pth(pickle): return archive(pickle)
files[H + "pickle_os_system.pth"] = pth(whole(call(glob("os", "system"), text("echo owned"))))
files[H + "pickle_os_system_protocol_0.pth"] = pth(b"cos\nsystem\n(S'echo owned'\ntR.")
files[H + "pickle_os_system_after_weights.pth"] = pth(PROTO + ordered([("weight", tensor())]) + call(glob("os", "system"), text("echo owned")) + STOP)
files[H + "pickle_eval_stack_global.pth"] = pth(b"\x80\x04" + stack_global("builtins", "eval") + tup(text("1")) + b"R.")
files[H + "pickle_inst.pth"] = pth(PROTO + MARK + text("echo owned") + b"ios\nsystem\n.")
files[H + "pickle_numpy_scalar.pth"] = pth(whole(dictionary(best=glob("numpy.core.multiarray", "scalar") + b")R", params=ordered([("weight", tensor())]))))
files[H + "pickle_torch_load.pth"] = pth(whole(call(glob("torch", "load"), text("/etc/passwd"))))
files[H + "pickle_escape_codes_in_name.pth"] = pth(whole(glob("os\x1b[2J", "system")))
files[H + "pickle_build_on_callable.pth"] = pth(whole(glob("torch", "Size") + b"}" + text("__call__") + NONE + b"s" + b"b"))
files[H + "pickle_extension_opcode.pth"] = pth(whole(b"\x82\x01"))
files[H + "pickle_call_of_text.pth"] = pth(whole(call(text("os.system"), text("echo owned"))))

# === hostile: malformed pickles ===
files[H + "pickle_empty.pth"] = pth(b"")
files[H + "pickle_truncated.pth"] = pth(state(tensor())[:60])
files[H + "pickle_no_stop.pth"] = pth(state(tensor())[:-1])
files[H + "pickle_protocol_9.pth"] = pth(b"\x80\x09N.")
files[H + "pickle_stack_empty.pth"] = pth(PROTO + b"0.")
files[H + "pickle_mark_missing.pth"] = pth(PROTO + b"u.")
files[H + "pickle_pop_below_mark.pth"] = pth(PROTO + b"}" + MARK + b"s.")
files[H + "pickle_memo_unset.pth"] = pth(PROTO + b"h\x05.")
files[H + "pickle_memo_bomb.pth"] = pth(PROTO + b"Nr\xff\xff\xff\xff.")
files[H + "pickle_marks_deep.pth"] = pth(PROTO + MARK * 2000 + b".")
files[H + "pickle_nested_deep.pth"] = pth(PROTO + b")" + b"\x85" * 3000 + STOP)
files[H + "pickle_list_in_itself.pth"] = pth(PROTO + b"]q\x00h\x00a.")
files[H + "pickle_dict_in_itself.pth"] = pth(PROTO + b"}q\x00" + text("params") + b"h\x00s.")
files[H + "pickle_tuple_doubling.pth"] = pth(PROTO + b")" + b"2\x86" * 1500 + STOP)
files[H + "pickle_text_length_huge.pth"] = pth(b"\x80\x04\x8d" + struct.pack("<Q", 1 << 63) + b"a.")
files[H + "pickle_text_not_utf8.pth"] = pth(PROTO + b"X\x02\x00\x00\x00\xff\xfe.")
files[H + "pickle_long_huge.pth"] = pth(PROTO + b"\x8b\xff\xff\xff\x7f.")
files[H + "pickle_key_without_value.pth"] = pth(PROTO + b"}" + MARK + text("a") + b"u.")
files[H + "pickle_persistent_id_text.pth"] = pth(whole(text("storage") + b"Q"))
files[H + "pickle_state_dict_empty.pth"] = pth(whole(ORDERED))
files[H + "pickle_only_options.pth"] = pth(whole(dictionary(model=dictionary(weight=tensor()), epoch=number(3))))

# === hostile: tensors ===
files[H + "tensor_size_negative.pth"] = pth(state(tensor(shape=(-4,), strides=(1,))))
files[H + "tensor_stride_negative.pth"] = pth(state(tensor(shape=(4,), strides=(-1,), offset=3)))
files[H + "tensor_offset_negative.pth"] = pth(state(tensor(offset=-1)))
files[H + "tensor_size_beyond_64_bits.pth"] = pth(state(tensor(shape=(1 << 70,), strides=(1,))))
files[H + "tensor_size_text.pth"] = pth(state(call(glob("torch._utils", "_rebuild_tensor_v2"), storage("0", 4), number(0), text("4"), numbers((1,)), FALSE, ORDERED)))
files[H + "tensor_of_text.pth"] = pth(state(call(glob("torch._utils", "_rebuild_tensor_v2"), text("0"), number(0), numbers((4,)), numbers((1,)), FALSE, ORDERED)))
files[H + "tensor_strides_missing.pth"] = pth(state(tensor(shape=(2, 2), strides=(2,))))
files[H + "tensor_rank_huge.pth"] = pth(state(tensor(shape=(1,) * 200)))
files[H + "tensor_size_overflows.pth"] = pth(state(tensor(shape=(1 << 62, 8), strides=(0, 0))))
files[H + "tensor_stride_overflows.pth"] = pth(state(tensor(shape=(3, 2), strides=((1 << 63) - 1, 1))))
files[H + "tensor_stride_past_storage.pth"] = pth(state(tensor(shape=(2, 2), strides=(3, 1))))
files[H + "tensor_offset_past_storage.pth"] = pth(state(tensor(shape=(4,), offset=1)))
files[H + "tensor_offset_overflows.pth"] = pth(state(tensor(shape=(4,), offset=(1 << 63) - 1)))
files[H + "tensor_expanded_huge.pth"] = pth(state(tensor(shape=(1 << 40,), strides=(0,))))
files[H + "storage_shorter_than_promised.pth"] = pth(state(tensor(count=1 << 20)))
files[H + "storage_count_huge.pth"] = pth(state(tensor(count=(1 << 63) - 1)))
files[H + "storage_count_negative.pth"] = pth(state(tensor(count=-1)))
files[H + "storage_complex_asked_for.pth"] = pth(state(tensor(count=1, shape=(1,), kind="ComplexFloatStorage")))
files[H + "infinite_weight.pth"] = archive(state(tensor()), {"0": struct.pack("<4f", 1, float("inf"), 3, 4)})

files[H + "bare_truncated.pth"] = bare()[:-1]
files[H + "bare_ends_with_pickles.pth"] = bare(data=b"")
files[H + "bare_big_endian.pth"] = bare(little=b"\x89")
files[H + "bare_other_version.pth"] = bare(version=1002)
files[H + "bare_count_negative.pth"] = bare(data=struct.pack("<q", -4) + FOUR)
files[H + "bare_count_huge.pth"] = bare(data=struct.pack("<q", (1 << 63) - 1) + FOUR)
files[H + "bare_count_too_small.pth"] = bare(data=struct.pack("<q", 3) + FOUR)
files[H + "bare_storage_not_listed.pth"] = bare(keys=(), data=b"")
files[H + "bare_storage_listed_twice.pth"] = bare(keys=("0", "0"), data=(struct.pack("<q", 4) + FOUR) * 2)
files[H + "bare_storage_unknown.pth"] = bare(keys=("0", "\x1b[2J"))
files[H + "bare_part_of_another.pth"] = bare((("weight", old_tensor(old_storage(whole_of=tup(text("1"), number(0), number(4))))),))
files[H + "bare_os_system.pth"] = bare((("weight", call(glob("os", "system"), text("echo owned"))),))
for folder in ("good", "hostile"):
    (here / folder).mkdir(exist_ok=True)
for name, content in files.items():
    assert len(content) < 4096, (name, len(content))
    (here / name).write_bytes(content)
print(len(files), "files,", sum(map(len, files.values())), "bytes")
