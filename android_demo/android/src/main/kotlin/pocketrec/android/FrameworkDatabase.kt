package pocketrec.android

import android.database.Cursor
import android.database.sqlite.SQLiteDatabase
import android.database.sqlite.SQLiteException
import android.database.sqlite.SQLiteFullException
import pocketrec.HistoryException
import pocketrec.SqlDatabase
import java.io.File

/** `SqlHistory(FrameworkDatabase(file))` keeps the history in the SQLite that Android brings. */
public class FrameworkDatabase(private val file: File) : SqlDatabase {
    private val database = typed { SQLiteDatabase.openOrCreateDatabase(file, null) }

    override fun execute(statement: String, vararg values: Any?): Int = typed {
        val word = statement.substringBefore(' ')
        if (word == "DELETE") {
            database.compileStatement(statement).use { compiled ->
                values.forEachIndexed { index, value -> compiled.bind(index + 1, value) }
                compiled.executeUpdateDelete()
            }
        } else {
            database.execSQL(statement, arrayOf(*values))
            0
        }
    }

    override fun query(statement: String): List<List<Any?>> = typed {
        database.rawQuery(statement, null).use { cursor ->
            List(cursor.count) {
                cursor.moveToPosition(it)
                List(cursor.columnCount) { column -> cursor.value(column) }
            }
        }
    }

    override fun close(): Unit = database.close()

    private fun Cursor.value(column: Int): Any? = when (getType(column)) {
        Cursor.FIELD_TYPE_NULL -> null
        Cursor.FIELD_TYPE_INTEGER -> getLong(column)
        else -> getString(column)
    }

    private fun android.database.sqlite.SQLiteStatement.bind(index: Int, value: Any?) = when (value) {
        null -> bindNull(index)
        is Long -> bindLong(index, value)
        else -> bindString(index, value.toString())
    }

    private fun <T> typed(block: () -> T): T = try {
        block()
    } catch (error: SQLiteFullException) {
        throw HistoryException("the history $file is full.", "history-full", "Free some space.", error)
    } catch (error: SQLiteException) {
        throw HistoryException("the history $file cannot be used: ${error.message}.", "history-invalid", "", error)
    }
}
