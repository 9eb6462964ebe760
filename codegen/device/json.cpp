#include "json.h"

#include <locale.h>
#include <stdlib.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "error.h"

namespace graphopt {
namespace {

constexpr int kMaxDepth = 32;
constexpr size_t kMaxValues = 1 << 20;

// strtod reads the decimal point of the process's locale; JSON's is always a point.
double number_of(const std::string& text) {
    static const locale_t c = newlocale(LC_ALL_MASK, "C", nullptr);
    return c != nullptr ? strtod_l(text.c_str(), nullptr, c) : strtod(text.c_str(), nullptr);
}

class Parser {
public:
    Parser(std::string_view text, const std::string& name) : text_(text), name_(name) {}

    JsonValue whole() {
        JsonValue value = read(0);
        skip_space();
        if (at_ < text_.size()) wrong("something follows the end");
        return value;
    }

private:
    [[noreturn]] void wrong(const std::string& what) const {
        throw BadInput(name_ + " is damaged: " + what + " (byte " + std::to_string(at_) + ")");
    }

    void skip_space() {
        while (at_ < text_.size() &&
               std::string_view(" \t\r\n").find(text_[at_]) != std::string_view::npos) {
            ++at_;
        }
    }

    // The next character that is no space; 0 at the end.
    char peek() {
        skip_space();
        return at_ < text_.size() ? text_[at_] : '\0';
    }

    bool take(char wanted) {
        if (peek() != wanted) return false;
        ++at_;
        return true;
    }

    void expect(char wanted) {
        if (!take(wanted)) wrong(std::string("there is no ") + wanted);
    }

    JsonValue read(int depth) {
        if (depth > kMaxDepth) wrong("it is nested too deeply");
        if (++values_ > kMaxValues) wrong("it has too many values");
        JsonValue value;
        switch (peek()) {
            case '{': read_object(value, depth); break;
            case '[': read_array(value, depth); break;
            case '"':
                value.kind = JsonValue::Kind::string;
                value.text = read_string();
                break;
            case 't':
                read_word("true", value, JsonValue::Kind::boolean);
                value.boolean = true;
                break;
            case 'f': read_word("false", value, JsonValue::Kind::boolean); break;
            case 'n': read_word("null", value, JsonValue::Kind::null); break;
            default: read_number(value);
        }
        return value;
    }

    void read_word(std::string_view word, JsonValue& value, JsonValue::Kind kind) {
        if (text_.substr(at_, word.size()) != word) wrong("there is no value");
        at_ += word.size();
        value.kind = kind;
    }

    void read_array(JsonValue& value, int depth) {
        value.kind = JsonValue::Kind::array;
        expect('[');
        if (take(']')) return;
        do value.items.push_back(read(depth + 1));
        while (take(','));
        expect(']');
    }

    void read_object(JsonValue& value, int depth) {
        value.kind = JsonValue::Kind::object;
        expect('{');
        if (take('}')) return;
        do {
            if (peek() != '"') wrong("there is no key");
            value.keys.push_back(read_string());
            expect(':');
            value.items.push_back(read(depth + 1));
        } while (take(','));
        expect('}');
        std::vector<std::string_view> sorted(value.keys.begin(), value.keys.end());
        std::sort(sorted.begin(), sorted.end());
        if (std::adjacent_find(sorted.begin(), sorted.end()) != sorted.end()) {
            wrong("a key is there twice");
        }
    }

    size_t digits() {
        const size_t start = at_;
        while (at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9') ++at_;
        return at_ - start;
    }

    // The next character, exactly; it is taken if it is one of these.
    bool take_one(std::string_view of) {
        if (at_ >= text_.size() || of.find(text_[at_]) == std::string_view::npos) return false;
        ++at_;
        return true;
    }

    void read_number(JsonValue& value) {
        const size_t start = at_;
        take_one("-");
        const size_t first = at_;
        const size_t count = digits();
        if (count == 0 || (count > 1 && text_[first] == '0')) wrong("there is no value");
        bool whole = true;
        if (take_one(".")) {
            whole = false;
            if (digits() == 0) wrong("a number ends with its point");
        }
        if (take_one("eE")) {
            whole = false;
            take_one("+-");
            if (digits() == 0) wrong("a number has no exponent");
        }
        const std::string text(text_.substr(start, at_ - start));
        value.real = number_of(text);
        if (!std::isfinite(value.real)) wrong("a number is too large");
        value.kind = JsonValue::Kind::real;
        if (whole) {
            const char* end = text.data() + text.size();
            const auto done = std::from_chars(text.data(), end, value.integer);
            if (done.ec != std::errc() || done.ptr != end) wrong("a number is too large");
            value.kind = JsonValue::Kind::integer;
        }
    }

    std::string read_string() {
        std::string text;
        expect('"');
        for (;;) {
            if (at_ >= text_.size()) wrong("a text has no end");
            const char c = text_[at_++];
            if (c == '"') return text;
            if (static_cast<unsigned char>(c) < 0x20) wrong("a text has a control character");
            if (c != '\\') {
                text += c;
                continue;
            }
            const char escaped = at_ < text_.size() ? text_[at_++] : '\0';
            constexpr std::string_view kNames = "\"\\/bfnrt", kMeanings = "\"\\/\b\f\n\r\t";
            if (escaped == 'u') {
                append_utf8(text, read_code_point());
            } else if (const size_t i = kNames.find(escaped); i != std::string_view::npos) {
                text += kMeanings[i];
            } else {
                wrong("a text has an unknown escape");
            }
        }
    }

    uint32_t read_hex() {
        uint32_t unit = 0;
        if (text_.size() - at_ < 4) wrong("a text has no end");
        const char* end = text_.data() + at_ + 4;
        const auto done = std::from_chars(text_.data() + at_, end, unit, 16);
        if (done.ec != std::errc() || done.ptr != end) wrong("a text has an unknown escape");
        at_ += 4;
        return unit;
    }

    // After \u: a UTF-16 unit, or a surrogate pair of two.
    uint32_t read_code_point() {
        const uint32_t unit = read_hex();
        if (unit < 0xd800 || unit > 0xdfff) return unit;
        if (unit > 0xdbff || text_.substr(at_, 2) != "\\u") wrong("a text has half a character");
        at_ += 2;
        const uint32_t low = read_hex();
        if (low < 0xdc00 || low > 0xdfff) wrong("a text has half a character");
        return 0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00);
    }

    static void append_utf8(std::string& text, uint32_t point) {
        const auto tail = [&](int shift) {
            text += static_cast<char>(0x80 | (point >> shift & 0x3f));
        };
        if (point < 0x80) {
            text += static_cast<char>(point);
        } else if (point < 0x800) {
            text += static_cast<char>(0xc0 | point >> 6), tail(0);
        } else if (point < 0x10000) {
            text += static_cast<char>(0xe0 | point >> 12), tail(6), tail(0);
        } else {
            text += static_cast<char>(0xf0 | point >> 18), tail(12), tail(6), tail(0);
        }
    }

    std::string_view text_;
    const std::string& name_;
    size_t at_ = 0, values_ = 0;
};

}  // namespace

JsonValue parse_json(std::string_view text, const std::string& name) {
    return Parser(text, name).whole();
}

void Json::wrong(const std::string& what) const { throw BadInput(where_ + " " + what); }

void Json::require(JsonValue::Kind kind, const char* name) const {
    if (value_->kind != kind) wrong(std::string("is not ") + name);
}

bool Json::has(std::string_view key) const {
    require(JsonValue::Kind::object, "an object");
    return std::find(value_->keys.begin(), value_->keys.end(), key) != value_->keys.end();
}

Json Json::operator[](std::string_view key) const {
    require(JsonValue::Kind::object, "an object");
    const auto found = std::find(value_->keys.begin(), value_->keys.end(), key);
    if (found == value_->keys.end()) wrong("has no " + std::string(key));
    const auto i = static_cast<size_t>(found - value_->keys.begin());
    // "plan.json: tensors[3].offset"
    const char* between = where_.back() == ':' ? " " : ".";
    return Json(value_->items[i], where_ + between + std::string(key));
}

std::vector<Json> Json::items() const {
    require(JsonValue::Kind::array, "a list");
    std::vector<Json> items;
    items.reserve(value_->items.size());
    for (size_t i = 0; i < value_->items.size(); ++i) {
        items.emplace_back(value_->items[i], where_ + "[" + std::to_string(i) + "]");
    }
    return items;
}

const std::vector<std::string>& Json::keys() const {
    require(JsonValue::Kind::object, "an object");
    return value_->keys;
}

bool Json::boolean() const {
    require(JsonValue::Kind::boolean, "true or false");
    return value_->boolean;
}

int64_t Json::integer(int64_t least, int64_t most) const {
    require(JsonValue::Kind::integer, "a whole number");
    if (value_->integer < least || value_->integer > most) {
        wrong("is " + std::to_string(value_->integer) + ", not from " + std::to_string(least) +
              " to " + std::to_string(most));
    }
    return value_->integer;
}

double Json::real() const {
    if (value_->kind != JsonValue::Kind::integer) require(JsonValue::Kind::real, "a number");
    return value_->real;
}

const std::string& Json::string() const {
    require(JsonValue::Kind::string, "a text");
    return value_->text;
}

std::string json_string(std::string_view text) {
    std::string quoted = "\"";
    for (const char c : text) {
        if (c == '"' || c == '\\') {
            quoted += '\\', quoted += c;
        } else if (static_cast<unsigned char>(c) < 0x20) {
            quoted += "\\u00", quoted += "01"[c >> 4], quoted += "0123456789abcdef"[c & 15];
        } else {
            quoted += c;
        }
    }
    return quoted + '"';
}

}  // namespace graphopt
