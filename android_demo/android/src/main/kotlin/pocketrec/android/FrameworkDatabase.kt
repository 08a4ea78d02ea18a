package pocketrec.android

import android.database.Cursor
import android.database.DatabaseErrorHandler
import android.database.sqlite.SQLiteAccessPermException
import android.database.sqlite.SQLiteCantOpenDatabaseException
import android.database.sqlite.SQLiteDatabase
import android.database.sqlite.SQLiteDatabaseCorruptException
import android.database.sqlite.SQLiteDatabaseLockedException
import android.database.sqlite.SQLiteDiskIOException
import android.database.sqlite.SQLiteException
import android.database.sqlite.SQLiteFullException
import android.database.sqlite.SQLiteReadOnlyDatabaseException
import android.database.sqlite.SQLiteTableLockedException
import pocketrec.SqlDatabase
import java.io.File

/** `SqlHistory(FrameworkDatabase(file))` keeps the history in the SQLite that Android brings. */
public class FrameworkDatabase(private val file: File) : SqlDatabase {
    private val database = typed {
        SqlDatabase.checkBeforeOpening(file)
        // A handler of our own: the framework's deletes a damaged file, and with it what could still be saved.
        SQLiteDatabase.openOrCreateDatabase(file.path, null, DatabaseErrorHandler { })
    }

    override fun execute(statement: String, vararg values: Any?): Int = typed {
        if (statement.startsWith("DELETE ")) {
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
    } catch (error: SQLiteException) {
        throw SqlDatabase.failure(resultCode(error), file, error)
    }

    private fun resultCode(error: SQLiteException): Int = when (error) {
        is SQLiteDatabaseCorruptException -> SqlDatabase.CORRUPT // "not a database" is one of these, too
        is SQLiteFullException -> SqlDatabase.FULL
        is SQLiteDiskIOException -> SqlDatabase.IO_ERROR
        is SQLiteDatabaseLockedException -> SqlDatabase.BUSY
        is SQLiteTableLockedException -> SqlDatabase.LOCKED
        is SQLiteReadOnlyDatabaseException -> SqlDatabase.READ_ONLY
        is SQLiteAccessPermException -> SqlDatabase.NO_PERMISSION
        is SQLiteCantOpenDatabaseException -> SqlDatabase.CANNOT_OPEN
        else -> 0
    }
}
