package pocketrec

import java.nio.ByteBuffer
import java.nio.charset.CharacterCodingException
import java.nio.charset.CodingErrorAction

/**
 * JSON (RFC 8259) read strictly: UTF-8 without a byte-order mark, no key twice, no NaN, nothing behind the value, and at
 * most [MAX_DEPTH] levels. The usual libraries keep the last of two equal keys, which lets two readers of one manifest
 * see two manifests.
 *
 * Gives `Map<String, Any?>`, `List<Any?>`, `String`, `Boolean`, `null`, `Long` for a number without fraction and exponent,
 * and `Double` for every other (and for whole numbers beyond a Long).
 */
internal class Json private constructor(private val text: String) {
    private var at = 0

    private fun whole(): Any? {
        val value = value(0)
        space()
        if (at != text.length) fail("something follows the value")
        return value
    }

    private fun value(depth: Int): Any? {
        if (depth > MAX_DEPTH) fail("it is nested deeper than $MAX_DEPTH")
        space()
        return when (peek()) {
            '{' -> objectAt(depth)
            '[' -> arrayAt(depth)
            '"' -> string()
            't' -> word("true", true)
            'f' -> word("false", false)
            'n' -> word("null", null)
            else -> number()
        }
    }

    private fun objectAt(depth: Int): Map<String, Any?> {
        val found = LinkedHashMap<String, Any?>()
        at++
        space()
        if (skip('}')) return found
        do {
            space()
            if (peek() != '"') fail("a key is expected")
            val key = string()
            space()
            if (!skip(':')) fail("':' is expected")
            if (found.containsKey(key)) fail("the key ${quoted(key)} occurs twice")
            found[key] = value(depth + 1)
            space()
        } while (skip(','))
        if (!skip('}')) fail("',' or '}' is expected")
        return found
    }

    private fun arrayAt(depth: Int): List<Any?> {
        val found = ArrayList<Any?>()
        at++
        space()
        if (skip(']')) return found
        do {
            found.add(value(depth + 1))
            space()
        } while (skip(','))
        if (!skip(']')) fail("',' or ']' is expected")
        return found
    }

    private fun string(): String {
        val out = StringBuilder()
        at++
        while (true) {
            val c = next()
            when {
                c == '"' -> return out.toString()
                c == '\\' -> out.append(escaped())
                c < ' ' -> fail("a control character stands in a text")
                else -> out.append(c)
            }
        }
    }

    private fun escaped(): Char = when (val c = next()) {
        '"', '\\', '/' -> c
        'b' -> '\b'
        'f' -> '\u000c'
        'n' -> '\n'
        'r' -> '\r'
        't' -> '\t'
        'u' -> {
            if (at + 4 > text.length) fail("an escape is cut off")
            val digits = text.substring(at, at + 4)
            if (!digits.all { it in '0'..'9' || it in 'a'..'f' || it in 'A'..'F' }) fail("\\u$digits is no escape")
            at += 4
            digits.toInt(16).toChar()
        }
        else -> fail("\\$c is no escape")
    }

    private fun number(): Any {
        val match = NUMBER.matchAt(text, at) ?: fail("a value is expected")
        at = match.range.last + 1
        val digits = match.value
        val double = digits.toDouble()
        if (double.isInfinite()) fail("the number ${digits.take(40)} is out of range")
        return if (digits.none { it in ".eE" }) digits.toLongOrNull() ?: double else double
    }

    private fun word(word: String, value: Any?): Any? {
        if (!text.startsWith(word, at)) fail("a value is expected")
        at += word.length
        return value
    }

    private fun space() {
        while (at < text.length && text[at] in " \t\n\r") at++
    }

    private fun peek(): Char = if (at < text.length) text[at] else fail("it ends too early")

    private fun next(): Char = peek().also { at++ }

    private fun skip(c: Char): Boolean = (at < text.length && text[at] == c).also { if (it) at++ }

    private fun fail(what: String): Nothing = throw JsonException("$what (character $at)")

    private class JsonException(message: String) : Exception(message)

    companion object {
        const val MAX_DEPTH = 128
        private val NUMBER = Regex("-?(0|[1-9][0-9]*)(\\.[0-9]+)?([eE][+-]?[0-9]+)?")

        /** The value in [data]; `json-invalid`, naming [what], when it is not the JSON described above. */
        fun parse(data: ByteArray, what: String): Any? {
            val fault = try {
                val decoder = Charsets.UTF_8.newDecoder()
                    .onMalformedInput(CodingErrorAction.REPORT).onUnmappableCharacter(CodingErrorAction.REPORT)
                return Json(decoder.decode(ByteBuffer.wrap(data)).toString()).whole()
            } catch (error: CharacterCodingException) {
                "it is not UTF-8"
            } catch (error: JsonException) {
                error.message
            }
            throw BundleException(
                "$what is not the JSON it should be: $fault.", "json-invalid",
                "Get the bundle again from where it was made.",
            )
        }

        /** [text] as a JSON string, everything outside ASCII as it is. */
        fun quoted(text: String): String {
            val out = StringBuilder("\"")
            for (c in text) {
                when {
                    c == '"' || c == '\\' -> out.append('\\').append(c)
                    c == '\n' -> out.append("\\n")
                    c == '\r' -> out.append("\\r")
                    c == '\t' -> out.append("\\t")
                    c < ' ' || c == '\u007f' -> out.append("\\u").append(c.code.toString(16).padStart(4, '0'))
                    else -> out.append(c)
                }
            }
            return out.append('"').toString()
        }
    }
}
