package pocketrec

import org.sqlite.SQLiteException
import java.io.File
import java.sql.Connection
import java.sql.DriverManager
import java.sql.PreparedStatement
import java.sql.SQLException

/** SQLite through JDBC, for tests and desktops. */
class JdbcDatabase(private val file: File) : SqlDatabase {
    private val connection: Connection

    init {
        SqlDatabase.checkBeforeOpening(file)
        connection = typed { DriverManager.getConnection("jdbc:sqlite:$file") }
    }

    override fun execute(statement: String, vararg values: Any?): Int = run(statement, values) { it.executeUpdate() }

    override fun query(statement: String): List<List<Any?>> = run(statement, emptyArray()) { prepared ->
        if (!prepared.execute()) return@run emptyList()
        val rows = ArrayList<List<Any?>>()
        prepared.resultSet.use { result ->
            while (result.next()) {
                rows.add((1..result.metaData.columnCount).map { result.getObject(it).let { x -> if (x is Int) x.toLong() else x } })
            }
        }
        rows
    }

    override fun close(): Unit = connection.close()

    private fun <T> run(statement: String, values: Array<out Any?>, use: (PreparedStatement) -> T): T = typed {
        connection.prepareStatement(statement).use { prepared ->
            values.forEachIndexed { index, value -> prepared.setObject(index + 1, value) }
            use(prepared)
        }
    }

    private fun <T> typed(block: () -> T): T = try {
        block()
    } catch (error: SQLException) {
        throw SqlDatabase.failure((error as? SQLiteException)?.resultCode?.code ?: 0, file, error)
    }
}
